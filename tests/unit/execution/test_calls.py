from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from intramuros.execution.calls import INTERRUPTED, NOT_RECORDED, Bench, Calls
from intramuros.execution.client import Away, Refused, Work
from intramuros.execution.dispatch import Answered, Dispatch, ToolUse
from intramuros.execution.hands import Hands
from intramuros.execution.heartbeat import Lease
from intramuros.execution.journal import Journal, Progress, Result
from intramuros.execution.record import Record
from intramuros.execution.sandbox.base import SandboxError, SandboxSpec, ToolOutcome
from intramuros.execution.skills import Skills
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.audit import verify
from tests.fakes.outflow import gate
from tests.fakes.sandbox import FakeProvider
from tests.waiting import until

pytestmark = pytest.mark.anyio

SESSION = "sesn_1"


class ScriptedClient:
    """Takes results; what ``script`` holds is raised first, one for each post."""

    def __init__(self, clock: ManualClock, script: Sequence[Exception]) -> None:
        self.work = Work("work_1", "env_1", "session", SESSION)
        self.clock = clock
        self.script = list(script)
        self.posted: list[tuple[str, Result]] = []

    async def post(self, call: ToolUse, result: Result) -> None:
        await anyio.lowlevel.checkpoint()
        self.clock.advance(1.0)
        if self.script:
            raise self.script.pop(0)
        self.posted.append((call.event_id, result))


class Rig:
    def __init__(self, folder: Path, *script: Exception) -> None:
        self.clock = ManualClock()
        self.provider = FakeProvider()
        self.journal = Journal(folder / "journal")
        self.record = Record(folder / "audit.jsonl", self.clock)
        self.client = ScriptedClient(self.clock, script)
        self.dispatch = Dispatch(frozenset({"bash", "read", "write", "edit", "glob", "grep"}))
        self.lease = Lease()
        hands = Hands(self.provider, SandboxSpec(), lambda: 0.0)
        skills = Skills(folder / "skills", self.record, lambda: 0.0)
        bench = Bench(
            hands, self.journal, self.record, {}, 5.0, self.clock, lambda: 0.0, skills, gate()
        )
        self.calls = Calls(bench, self.client, self.dispatch, self.lease)  # type: ignore[arg-type]  structurally one

    async def serve(self, *uses: ToolUse) -> None:
        """Serve until nothing is left to do."""
        self.dispatch.history(uses, 0.0)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(self.calls.loop)
                await until(
                    lambda: self.dispatch.next_call() is None and self.calls.doing == "waiting"
                )
                self.calls.drain()

    def kinds(self) -> list[str]:
        lines = list(read_lines(self.record._file.path))
        verify(lines)
        return [line.split('"kind":"')[1].split('"')[0] for line in lines]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intramuros.execution.calls.POST_BACKOFF_BASE_S", 0.001)


def use(event_id: str, name: str = "bash", **arguments: Any) -> ToolUse:
    return ToolUse(event_id, name, arguments, permission="allow")


def said(result: Result) -> str:
    return str(result.content[0]["text"])


async def test_each_step_is_recorded_before_the_next(rig: Rig) -> None:
    seen: list[tuple[list[str], Progress]] = []

    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        seen.append((rig.kinds(), rig.journal.progress(SESSION, "a")[0]))
        return ToolOutcome.text("out")

    rig.provider.handler = handler
    await rig.serve(use("a"))
    assert seen == [(["tool.call"], Progress.STARTED)]
    assert rig.kinds() == ["tool.call", "tool.result"]
    assert rig.client.posted == [("a", Result([{"type": "text", "text": "out"}], is_error=False))]
    assert rig.journal.progress(SESSION, "a") == (Progress.UNKNOWN, None)


async def test_a_finished_call_is_posted_from_the_journal_and_not_run(rig: Rig) -> None:
    known = Result([{"type": "text", "text": "from before"}], is_error=True)
    rig.journal.start(SESSION, "a")
    rig.journal.finish(SESSION, "a", known)
    await rig.serve(use("a"))
    assert rig.client.posted == [("a", known)]
    assert rig.provider.calls == []
    assert rig.kinds() == ["tool.result"]


@pytest.mark.parametrize("tool", ["bash", "edit"])
async def test_an_interrupted_call_with_effects_is_reported(rig: Rig, tool: str) -> None:
    rig.journal.start(SESSION, "a")
    await rig.serve(use("a", tool))
    ((_, result),) = rig.client.posted
    assert (said(result), result.is_error) == (INTERRUPTED, True)
    assert rig.provider.calls == []


@pytest.mark.parametrize("tool", ["read", "glob", "grep", "write"])
async def test_an_interrupted_call_that_may_repeat_is_run_again(rig: Rig, tool: str) -> None:
    rig.journal.start(SESSION, "a")
    await rig.serve(use("a", tool))
    ((_, result),) = rig.client.posted
    assert result.is_error is False
    assert len(rig.provider.calls) == 1


async def test_an_unreadable_journal_runs_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    rig.journal.start(SESSION, "a")
    monkeypatch.setattr(rig.journal, "progress", broken)
    await rig.serve(use("a"))
    ((_, result),) = rig.client.posted
    assert said(result) == NOT_RECORDED
    assert rig.provider.calls == []


async def test_an_unwritable_journal_runs_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rig.journal, "start", broken)
    await rig.serve(use("a"))
    ((_, result),) = rig.client.posted
    assert said(result) == NOT_RECORDED
    assert rig.provider.calls == []


async def test_posts_are_repeated_for_one_lease_and_then_left(tmp_path: Path) -> None:
    rig = Rig(tmp_path, *[Away("503")] * 100)
    rig.lease.ttl_s = 5
    await rig.serve(use("a"))
    assert rig.client.posted == []
    assert len(rig.client.script) == 95
    # The result is kept, and tried again after the next connect, without another run.
    rig.client.script.clear()
    rig.calls = Calls(rig.calls._bench, rig.client, rig.dispatch, rig.lease)  # type: ignore[arg-type]  structurally one
    await rig.serve(use("a"))
    assert [call_id for call_id, _ in rig.client.posted] == ["a"]
    assert len(rig.provider.calls) == 1


async def test_a_refused_result_is_set_aside_and_the_next_call_goes_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Refused("HTTP 400", 400))
    await rig.serve(use("a"), use("b"))
    assert [call_id for call_id, _ in rig.client.posted] == ["b"]
    assert rig.kinds().count("tool.refused") == 1
    assert rig.journal.progress(SESSION, "a")[0] is Progress.DONE


async def test_a_call_answered_elsewhere_while_it_runs_is_stopped(rig: Rig) -> None:
    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        if tool == "bash":
            rig.dispatch.live(Answered("x", "a"), 1.0)
            rig.calls.poke()
            await anyio.sleep_forever()
        return ToolOutcome.text("next")

    rig.provider.handler = handler
    await rig.serve(use("a"), use("b", "read"))
    assert [call_id for call_id, _ in rig.client.posted] == ["b"]
    assert rig.journal.progress(SESSION, "a") == (Progress.UNKNOWN, None)


async def test_a_sandbox_that_does_not_come_up_is_told_to_the_agent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise SandboxError("no user namespaces")

    monkeypatch.setattr(rig.provider, "create", broken)
    await rig.serve(use("a"), use("b"))
    assert [said(result) for _, result in rig.client.posted] == [
        "The sandbox could not run the call: no user namespaces"
    ] * 2
    assert all(result.is_error for _, result in rig.client.posted)


@pytest.mark.parametrize("how", ["error", "raise"])
async def test_a_spill_that_fails_is_said(rig: Rig, how: str) -> None:
    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        if tool == "write" and how == "raise":
            raise SandboxError("quota")
        return ToolOutcome.text("x" * 200_000, is_error=tool == "write")

    rig.provider.handler = handler
    await rig.serve(use("a"))
    ((_, result),) = rig.client.posted
    assert "could not be written" in result.content[-1]["text"]


async def test_digests_and_sizes_are_recorded_and_content_is_not(rig: Rig) -> None:
    async def handler(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        return ToolOutcome.text("what the tool said")

    rig.provider.handler = handler
    await rig.serve(use("a", command="what the agent asked"))
    text = rig.record._file.path.read_text()
    assert "what the" not in text
    assert text.count('"sha256":"') == 2
    assert '"direction":"in"' in text
    assert '"direction":"out"' in text
