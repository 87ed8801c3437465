"""Ctrl-C, and a supervisor that is killed: nothing stays, and nothing is said twice."""

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.rig import Command, assert_nothing_left, eventually, left_behind, needs_demo, running

pytestmark = pytest.mark.timeout(240)


@needs_demo
@pytest.mark.parametrize(
    "moment", ["an agent audits", "control plane", "worker", "CA ", "The job", "bash"]
)
def test_the_demo_is_interrupted(tmp_path: Path, moment: str) -> None:
    with running("demo", "--data-dir", tmp_path / "demo") as demo:
        demo.until(moment)
        demo.interrupt()
        assert demo.wait(60) == 130, demo.output
    assert not any("Traceback" in line for line in demo.errors), demo.output
    assert [line for line in demo.errors if line.startswith("error")] == []
    assert not (tmp_path / "demo").exists()
    assert_nothing_left(tmp_path)


@needs_demo
def test_the_demo_is_interrupted_before_it_says_anything(tmp_path: Path) -> None:
    for _ in range(2):
        with running("demo", "--data-dir", tmp_path / "demo") as demo:
            eventually(lambda: (tmp_path / "demo").exists() or demo.lines, 60, "a beginning")
            demo.interrupt()
            assert demo.wait(60) in (130, -signal.SIGINT), demo.output
        assert not any("Traceback" in line for line in demo.errors), demo.output
        assert not (tmp_path / "demo").exists()
        assert_nothing_left(tmp_path)


def up(tmp_path: Path) -> tuple[str, ...]:
    return ("up", "--data-dir", str(tmp_path / "data"), "--port", "0", "--edge-port", "0")


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_up_is_stopped(tmp_path: Path, with_signal: signal.Signals) -> None:
    with running(*up(tmp_path)) as command:
        command.until("ready http://")
        assert len(left_behind(tmp_path)) >= 4
        os.kill(command.process.pid, with_signal)
        assert command.wait(60) == 0, command.output
    assert_nothing_left(tmp_path)


def test_up_is_killed_and_started_again(tmp_path: Path) -> None:
    with running(*up(tmp_path)) as first:
        first.until("ready http://")
        first.process.kill()
        first.wait()
    assert_nothing_left(tmp_path)
    with running(*up(tmp_path)) as second:
        second.until("ready http://")
        _stop(second)
    assert_nothing_left(tmp_path)


def _stop(command: Command) -> None:
    command.interrupt()
    assert command.wait(60) == 0, command.output
