import subprocess

import pytest

from intramuros.cli.failures import explain, guarded, one_line
from intramuros.kernel.errors import NotFound, OperatorError

WRONG = OperatorError("no key", "set one")


def boom(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (WRONG, "no key: set one", 2),
        (ExceptionGroup("a", [ExceptionGroup("b", [WRONG])]), "no key: set one", 2),
        (ExceptionGroup("a", [ValueError("x"), WRONG]), "no key: set one", 2),
        (NotFound("no session 'x'"), "no session 'x'", 1),
        (KeyboardInterrupt(), "", 130),
        (BaseExceptionGroup("a", [KeyboardInterrupt()]), "", 130),
        (BrokenPipeError(), "", 1),
        (OSError(28, "No space left on device", "/data/x"), "no space left on device (/data/x)", 1),
        (ValueError("odd"), "unexpected ValueError: odd", 1),
    ],
)
def test_each_failure_is_one_line(error: BaseException, line: str, status: int) -> None:
    said, code = explain(error)
    assert said.startswith(line)
    assert code == status
    assert "\n" not in said


def test_status_and_stream(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: None) == 0
    assert guarded(lambda: boom(SystemExit(3))) == 3
    assert guarded(lambda: boom(SystemExit(None))) == 0
    assert guarded(lambda: boom(WRONG)) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: no key: set one\n"
    assert captured.out == ""


def test_a_traceback_only_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded(lambda: boom(ValueError("odd")))
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("INTRAMUROS_LOG_LEVEL", "debug")
    guarded(lambda: boom(ValueError("odd")))
    assert "Traceback" in capsys.readouterr().err


def test_lines_hide_credentials_and_control_characters() -> None:
    key = "sk-intramuros-api01-" + "x" * 32
    said = one_line(f"a\n b\x1b[31m {key}")
    assert "x" * 32 not in said
    assert "\x1b" not in said


def test_a_full_pipe_end_is_no_error() -> None:
    assert explain(subprocess.CalledProcessError(1, ["x"]))[1] == 1
