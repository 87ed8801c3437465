from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from intramuros.execution import holding as room
from intramuros.execution.calls import WITHHELD, Calls
from intramuros.execution.dispatch import Answered
from intramuros.execution.holding import Holding
from intramuros.execution.journal import Held, Journal, Progress, Result
from intramuros.execution.outflow.gate import NOBODY
from intramuros.execution.releases import Answer, Releases
from intramuros.execution.sandbox.base import ToolOutcome
from tests.fakes.outflow import FakePeople, asking, gate
from tests.unit.execution.test_calls import SESSION, Rig, use
from tests.waiting import until

pytestmark = pytest.mark.anyio
TOKEN = "ghp_" + "a" * 36
SAID = f"key={TOKEN} and AKIAIOSFODNN7EXAMPLE"


class Waiting(Rig):
    """Calls of a worker that asks people about tokens of one kind."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.people = FakePeople()
        self.runs = 0

        async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
            self.runs += 1
            return ToolOutcome.text(SAID)

        self.provider.handler = handler
        self.gate = gate(policy=asking())
        self.folder = folder
        self.again()

    def again(self) -> None:
        """Begin as a worker does whose predecessor was killed."""
        self.journal = Journal(self.folder / "journal")
        bench = replace(self.calls._bench, journal=self.journal, gate=self.gate)
        self.calls = Calls(bench, self.client, self.dispatch, self.lease)  # type: ignore[arg-type]  structurally one
        asked: Any = self.people
        releases = Releases(asked, SESSION, self.record, self.clock, 600.0)
        self.calls.holding = Holding(
            SESSION,
            self.journal,
            self.gate,
            releases,
            lambda: self.calls.draining,
            self.calls.pause,
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        self.dispatch.history([use("a")], 0.0)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(self.calls.loop)
                yield
                self.calls.drain()

    async def asked(self, times: int = 1) -> None:
        await until(lambda: len(self.people.asked) >= times)

    async def posted(self) -> Result:
        await until(lambda: bool(self.client.posted))
        ((_, result),) = self.client.posted
        return result


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    monkeypatch.setattr(room, "LOOK_S", 0.01)
    return Waiting(tmp_path)


async def test_nothing_leaves_until_it_is_allowed(rig: Waiting) -> None:
    async with rig.serving():
        await rig.asked(3)
        assert rig.client.posted == []
        assert rig.calls.doing == "bash: waiting for a person's word"
        assert rig.journal.progress(SESSION, "a") == (Progress.HELD, None)
        assert rig.people.asked[0].excerpt == "key=[masked github token] and [masked aws key]"
        rig.people.answer = Answer(True, by="key_1")
        result = await rig.posted()
        await until(lambda: rig.calls.doing == "waiting")
    assert result == Result(
        [{"type": "text", "text": f"key={TOKEN} and [masked aws key]"}], is_error=False
    )
    assert rig.kinds() == ["tool.call", "release.ask", "release.answer", "tool.result"]
    assert TOKEN not in rig.record._file.path.read_text()
    assert rig.journal.progress(SESSION, "a") == (Progress.UNKNOWN, None)


async def test_a_refusal_is_an_error_that_the_model_can_read(rig: Waiting) -> None:
    rig.people.answer = Answer(False, "A person refused it (not this).", "key_1")
    async with rig.serving():
        result = await rig.posted()
    said = " ".join(block["text"] for block in result.content)
    assert result.is_error
    assert "github token (1)" in said
    assert "A person refused it (not this)." in said
    assert TOKEN not in said


async def test_no_answer_in_time_is_a_refusal(rig: Waiting) -> None:
    async with rig.serving():
        await rig.asked()
        rig.clock.advance(600)
        result = await rig.posted()
    assert result.is_error
    assert "Nobody answered in time" in str(result.content)


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_worker_that_was_killed_goes_on_waiting(rig: Waiting, allowed: bool) -> None:
    async with rig.serving():
        await rig.asked()
    assert rig.client.posted == []
    rig.again()
    # What it would do without the policy now does not count: what was held back is in the journal.
    rig.gate = gate()
    async with rig.serving():
        await rig.asked(3)
        assert len({asked.id for asked in rig.people.asked}) == 1
        rig.people.answer = Answer(allowed)
        result = await rig.posted()
    assert result.is_error is not allowed
    assert (TOKEN in str(result.content)) is allowed
    assert rig.runs == 1


async def test_a_call_that_nobody_waits_for_is_dropped(rig: Waiting) -> None:
    async with rig.serving():
        await rig.asked()
        rig.dispatch.live(Answered("e", "a"), 0.0)
        rig.calls.poke()
        await until(lambda: rig.calls.doing == "waiting")
    assert rig.client.posted == []
    assert rig.kinds()[-1] == "tool.abandoned"
    assert rig.journal.progress(SESSION, "a") == (Progress.UNKNOWN, None)


async def test_what_cannot_be_noted_does_not_leave(
    rig: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rig.journal, "hold", broken)
    async with rig.serving():
        result = await rig.posted()
    assert result.content[0]["text"] == WITHHELD
    assert rig.people.asked == []


async def test_a_worker_that_can_ask_nobody_withholds(rig: Waiting) -> None:
    rig.calls.holding = None
    async with rig.serving():
        result = await rig.posted()
    assert result.is_error
    assert NOBODY in result.content[0]["text"]
    assert TOKEN not in str(result.content)


@pytest.mark.parametrize("asked", [{}, {"id": 1}, {"id": "a", "more": 1}])
async def test_a_damaged_question_is_a_refusal(rig: Waiting, asked: dict[str, Any]) -> None:
    known = Result([{"type": "text", "text": TOKEN}], is_error=False)
    rig.journal.hold(SESSION, "a", Held(known, asked, [{"type": "text", "text": "withheld"}]))
    async with rig.serving():
        result = await rig.posted()
    assert result.is_error
    assert TOKEN not in str(result.content)
    assert rig.runs == 0
