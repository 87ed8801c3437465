import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from intramuros.cli.options import declared_flags, imported, settings_command
from intramuros.kernel.errors import OperatorError
from intramuros.tunnel.edge_app import EdgeSettings
from intramuros.tunnel.linktable import MAX_LINKS_PER_TUNNEL, MAX_STREAMS_PER_TUNNEL

MODULE = "intramuros.tunnel.edge_app"


def invoke(tmp_path: Path, *arguments: str, env: dict[str, str] | None = None) -> list[object]:
    seen: list[object] = []
    app = typer.Typer()
    command = settings_command(MODULE, "EdgeSettings", seen.append, extra="tunnel", doc="Help.")
    app.command()(command)
    result = CliRunner().invoke(app, list(arguments), env=env or {}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen or [result.output]


REQUIRED = ("--cert-file", "c", "--key-file", "k", "--control-key-file", "p", "--audit-file", "a")


def test_every_field_is_a_flag_and_is_explained(tmp_path: Path) -> None:
    flags = list(declared_flags(MODULE, "EdgeSettings"))
    assert [flag.name for flag in flags] == list(EdgeSettings.__dataclass_fields__)
    text = " ".join(str(invoke(tmp_path, "--help")[0]).split())
    for flag in flags:
        assert f"--{flag.name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("module", "cls"),
    [
        (MODULE, "EdgeSettings"),
        ("intramuros.control.settings", "ServerSettings"),
        ("intramuros.execution.settings", "WorkerSettings"),
    ],
)
def test_help_says_defaults_as_people_would_write_them(module: str, cls: str) -> None:
    for flag in declared_flags(module, cls):
        said = flag.default or ""
        assert said in ("None", "True", "False") or not re.search(r"[A-Z]|\w\(", said)


def test_what_an_edge_bounds_is_what_its_table_bounds() -> None:
    assert EdgeSettings.max_links_per_tunnel == MAX_LINKS_PER_TUNNEL
    assert EdgeSettings.max_streams_per_tunnel == MAX_STREAMS_PER_TUNNEL


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    config = tmp_path / "edge.yaml"
    config.write_text("port: 1\nhost: file\ndrain-s: 5\n")
    (settings,) = invoke(
        tmp_path,
        *REQUIRED,
        "--config",
        str(config),
        "--port",
        "3",
        env={"INTRAMUROS_PORT": "2", "INTRAMUROS_HOST": "env"},
    )
    assert isinstance(settings, EdgeSettings)
    assert (settings.port, settings.host, settings.drain_s) == (3, "env", 5.0)
    # From where the program was started, whatever it does later.
    assert settings.cert_file == Path("c").absolute()


def test_booleans_and_lists() -> None:
    flags = {f.name: f for f in declared_flags("intramuros.control.settings", "ServerSettings")}
    assert flags["lenient"].annotation == "bool"
    assert flags["edge"].annotation.startswith("tuple")


def test_help_says_how_lists_are_given() -> None:
    app = typer.Typer()
    module = "intramuros.control.settings"
    app.command()(settings_command(module, "ServerSettings", print, extra="server", doc="Help."))
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "300", "TERM": "dumb"}).output
    text = " ".join(shown.replace("│", " ").split())
    assert "(give it again for each further one; env INTRAMUROS_EDGE, by commas)" in text
    assert (
        "(give it again for each further one; default 80 and 443; env INTRAMUROS_WEB_PORTS" in text
    )


def test_a_setting_may_have_several_variables() -> None:
    flags = {f.name: f for f in declared_flags("intramuros.control.settings", "ServerSettings")}
    assert flags["model_api_key"].env == (
        "INTRAMUROS_MODEL_API_KEY",
        "ANTHROPIC_UPSTREAM_API_KEY",
    )


def test_a_switched_off_boolean_counts(tmp_path: Path) -> None:
    seen: list[object] = []
    app = typer.Typer()
    app.command()(
        settings_command(
            "intramuros.control.settings",
            "ServerSettings",
            seen.append,
            extra="server",
            doc="Help.",
        )
    )
    result = CliRunner().invoke(app, ["--no-lenient"], env={"INTRAMUROS_LENIENT": "1"})
    assert result.exit_code == 0
    assert getattr(seen[0], "lenient") is False  # noqa: B009  seen holds objects


def test_what_is_not_installed_is_named() -> None:
    with pytest.raises(OperatorError, match=r"install intramuros\[worker\]"):
        imported("no_such_package_anywhere", "worker", "x")
    with pytest.raises(ModuleNotFoundError):
        imported("intramuros.no_such_module", "worker", "x")
