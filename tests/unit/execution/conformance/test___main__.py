import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from intramuros.execution.conformance import __main__ as command
from intramuros.execution.conformance.battery import Battery
from intramuros.execution.conformance.verdicts import Check
from intramuros.execution.sandbox.base import SandboxError
from tests.fakes.sandbox import FakeProvider

GOOD = Check("files", "read /etc/shadow", True, "EACCES", "EACCES")
BAD = Check("network", "connect metadata", False, "ok", "ENETUNREACH")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Check | Exception]:
    """What the battery will find."""
    found: list[Check | Exception] = []

    async def run(self: Battery) -> AsyncIterator[Check]:
        for one in found:
            if isinstance(one, Exception):
                raise one
            yield one

    def opened(name: str, state_dir: Path) -> Any:
        assert state_dir.is_dir()
        return FakeProvider()

    monkeypatch.setattr(Battery, "run", run)
    monkeypatch.setattr(command, "open_provider", opened)
    monkeypatch.setenv(command.CANARY, "taken back after the test")
    return found


def test_all_passed(told: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    told += [GOOD, GOOD]
    assert command.main([]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == ["ok       files: read /etc/shadow: EACCES", "2 passed, 0 failed"]


def test_one_failed(told: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    told += [GOOD, BAD]
    assert command.main(["bubblewrap"]) == 1
    said = capsys.readouterr().out
    assert "FAILED   network: connect metadata: ok, wanted ENETUNREACH\n" in said
    assert said.endswith("1 passed, 1 failed\n")


def test_a_script_reads_json(
    told: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told += [GOOD, BAD]
    assert command.main(["--json", "--state-dir", str(tmp_path)]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["passed"] for line in lines] == [True, False]
    assert lines[1]["wanted"] == "ENETUNREACH"


def test_nothing_checked_is_no_pass(told: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 1
    told.append(SandboxError("it did not come up"))
    assert command.main([]) == 2
    assert capsys.readouterr().err == "it did not come up\n"


def test_an_unknown_provider_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["no-such-provider"]) == 2
    assert "choose one of" in capsys.readouterr().err
