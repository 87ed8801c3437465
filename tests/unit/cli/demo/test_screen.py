import io
from typing import Any

from rich.console import Console

from intramuros.cli.crossing import Crossing
from intramuros.cli.demo.proofs import Proof
from intramuros.cli.demo.screen import Screen
from intramuros.kernel.timing import ManualClock


def shown(show: Any) -> str:
    text, clock = io.StringIO(), ManualClock()
    screen = Screen(clock, Console(file=text, width=100, highlight=False))
    clock.advance(1.25)
    show(screen)
    return text.getvalue()


def test_steps_tell_their_time() -> None:
    assert shown(lambda s: s.step("edge", "here [1]")) == "  ✓ edge           here [1]  1.2 s\n"


def test_events_as_they_happen() -> None:
    call = {"id": "t", "type": "agent.tool_use", "name": "bash", "input": {"command": "ls"}}
    call["processed_at"] = "2026-01-01T00:00:00Z"
    assert "→ sandbox: bash ls" in shown(lambda s: s.event(call))
    said = {"type": "agent.message", "content": [{"type": "text", "text": "one\ntwo"}]}
    assert shown(lambda s: s.event(said)) == "  agent: one\n"
    assert shown(lambda s: s.event({"type": "session.status_running"})) == ""


def test_a_death_is_told() -> None:
    assert "worker died" in shown(lambda s: s.supervised("worker", "died"))
    assert shown(lambda s: s.supervised("worker", "ready")) == ""


def test_crossings_and_proofs() -> None:
    found = [Crossing("", "worker", "out", "bash", "tool run", n, "ab" * 32) for n in (5, 7)]
    text = shown(lambda s: s.crossed(found))
    assert text.splitlines()[1].split() == ["worker", "out", "tool", "run", "2", "12"]
    assert "sha256 abababababababab…" in text
    text = shown(lambda s: s.proofs([Proof("a", True, "x"), Proof("b", False, "y")]))
    assert text.splitlines() == ["  ✓ a  x", "  ✗ b  y"]
