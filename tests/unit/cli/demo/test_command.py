import pytest
import typer
from typer.testing import CliRunner

from intramuros.cli.demo import run
from intramuros.cli.demo.command import DEFAULT_MODEL, demo
from intramuros.cli.demo.run import Wishes


@pytest.fixture
def wished(monkeypatch: pytest.MonkeyPatch) -> list[Wishes]:
    seen: list[Wishes] = []
    monkeypatch.setattr(run, "run_demo", seen.append)
    for name in ("ANTHROPIC_UPSTREAM_API_KEY", "ANTHROPIC_UPSTREAM_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return seen


def invoke(*arguments: str, **env: str) -> None:
    app = typer.Typer()
    app.command()(demo)
    result = CliRunner().invoke(app, list(arguments), env=env)
    assert result.exit_code == 0, result.output


def test_without_a_provider_there_is_no_model(wished: list[Wishes]) -> None:
    invoke("--keep")
    assert wished == [Wishes(None, True, None, None, None)]


def test_a_key_or_an_address_means_a_real_model(wished: list[Wishes]) -> None:
    invoke(ANTHROPIC_UPSTREAM_API_KEY="k")
    invoke("--model-base-url", "http://127.0.0.1:1", "--model", "m")
    assert wished == [
        Wishes(None, False, DEFAULT_MODEL, None, "k"),
        Wishes(None, False, "m", "http://127.0.0.1:1", None),
    ]
