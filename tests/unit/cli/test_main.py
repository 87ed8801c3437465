import pytest

from tests.unit.cli.conftest import Run

COMMANDS = ("up", "demo", "server", "worker", "edge", "gateway", "key", "environment-key")
COMMANDS += ("tunnel", "session", "audit", "doctor", "db")


def test_every_command_of_the_contract_is_there(run_process: Run) -> None:
    text = run_process("--help").out
    assert all(f" {name} " in text for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nonsense",), "nonsense"),
        (("--log-level", "loud", "doctor"), "loud"),
        (("up", "-x"), "-x"),
    ],
)
def test_a_wrong_command_line_is_status_2(
    run_process: Run, arguments: tuple[str, ...], says: str
) -> None:
    ran = run_process(*arguments)
    assert ran.status == 2
    assert "Traceback" not in ran.err
    assert says in ran.err or "log-level" in ran.err


def test_help_cuts_no_name_off_on_a_small_terminal(run_process: Run) -> None:
    ran = run_process("worker", "--help", COLUMNS="80", TERM="xterm")
    assert "--egress-proxy-credentials-file" in ran.out
    assert "INTRAMUROS_EGRESS_PROXY_CREDENTIALS_FILE" in ran.out
    assert "default 1073741824" in " ".join(ran.out.split())


def test_help_starts_no_plane(run_process: Run) -> None:
    ran = run_process("worker", "--help", PYTHONVERBOSE="1")
    assert "environment-key-file" in ran.out
    for heavy in ("import 'fastapi'", "import 'anthropic'", "import 'sqlalchemy'"):
        assert heavy not in ran.err
