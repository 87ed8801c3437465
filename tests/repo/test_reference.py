"""The reference pages say what the code says, and every command and setting is explained."""

import importlib.util
from typing import Annotated

import pytest
import typer
from scripts import gen_reference

needs_cli = pytest.mark.skipif(
    importlib.util.find_spec("intramuros.cli.main") is None,
    reason="NO COMMAND LINE YET: intramuros.cli.main is absent, so its reference goes unchecked",
)


@needs_cli
def test_the_reference_is_current() -> None:
    stale = [
        page.name
        for page, text in gen_reference.pages().items()
        if not page.exists() or page.read_text() != text
    ]
    assert not stale, f"{stale}: run `make reference` and commit what it wrote"


@needs_cli
def test_every_command_and_option_has_help() -> None:
    text = gen_reference.pages()[gen_reference.REFERENCE / "cli.md"]
    silent = [row for row in text.splitlines() if row.startswith("| `") and "|  |" in row[:-3]]
    silent += [
        block.splitlines()[0]
        for block in text.split("\n## ")[1:]
        if block.partition("\n\n")[2].strip()[:1] in {"", "|"}
    ]
    assert not silent, f"say what these do: {silent}"


def test_every_setting_is_explained_beside_it() -> None:
    assert gen_reference.undocumented() == []


def test_a_page_names_commands_options_arguments_and_defaults() -> None:
    app = typer.Typer()

    @app.callback()
    def root() -> None:
        """Do things."""

    @app.command()
    def build(
        target: Annotated[str, typer.Argument(help="What | to build.")],
        port: Annotated[int, typer.Option(help="Where.")] = 7700,
        fast: Annotated[bool, typer.Option("--fast", help="Skip checks.")] = False,
    ) -> None:
        """Build one target."""

    @app.command(hidden=True)
    def secret() -> None:
        """Not shown."""

    page = gen_reference.cli_page(app)
    assert "## `intramuros build`\n\nBuild one target." in page
    assert "What \\| to build. | required |" in page
    assert "| `--port` `INTEGER` | Where. | `7700` |" in page
    assert "| `--fast` | Skip checks. |  |" in page
    assert "secret" not in page
