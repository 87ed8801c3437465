import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from intramuros.execution.calls import Bench
from intramuros.execution.client import (
    Attached,
    Away,
    Beat,
    LeaseLost,
    Raced,
    Refused,
    Session,
    Work,
)
from intramuros.execution.dispatch import Event, Idle, Running, ToolUse
from intramuros.execution.hands import Hands
from intramuros.execution.journal import Journal, Result
from intramuros.execution.memory import MemoryTerms
from intramuros.execution.record import Record, RecordFailed
from intramuros.execution.sandbox.base import SandboxSpec
from intramuros.execution.session import HANDOVER_TTL_S, Item
from intramuros.execution.skills import Skills
from intramuros.execution.terms import Outcome, Terms
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import SystemClock
from tests.fakes.outflow import gate
from tests.fakes.sandbox import FakeProvider
from tests.waiting import until

pytestmark = pytest.mark.anyio


class ScriptedControl:
    """The control plane and the item's client in one; each method can be made to fail."""

    def __init__(self, *history: Event) -> None:
        self.work = Work("work_1", "env_1", "session", "sesn_1")
        self.events = list(history)
        self.log: list[str] = []
        self.failures: dict[str, list[Exception]] = {}
        self.ttls: list[int | None] = []
        self.stores: tuple[Attached, ...] = ()

    def item(self, _work: Work) -> "ScriptedControl":
        return self

    async def _did(self, name: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.log.append(name)
        if self.failures.get(name):
            raise self.failures[name].pop(0)

    async def ack(self, _work: Work) -> None:
        await self._did("ack")

    async def heartbeat(self, _expected: str, *, ttl_s: int | None = None) -> Beat:
        await self._did("heartbeat")
        self.ttls.append(ttl_s)
        return Beat("t1", True, "active", 300.0)

    async def stop(self) -> None:
        await self._did("stop")

    async def session(self) -> Session:
        await self._did("session")
        return Session("idle", stores=self.stores)

    @property
    def sdk(self) -> object:
        memories = SimpleNamespace(list=self._memories)
        return SimpleNamespace(
            beta=SimpleNamespace(memory_stores=SimpleNamespace(memories=memories))
        )

    async def _memories(self, _store_id: str, *, view: str, limit: int) -> AsyncIterator[object]:
        assert limit == {"full": 20, "basic": 100}[view]
        await self._did(view)
        yield SimpleNamespace(
            type="memory",
            id="mem_1",
            path="/a",
            content_sha256=hashlib.sha256(b"x").hexdigest(),
            content="x" if view == "full" else None,
        )

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[AsyncIterator[Event]]:
        await self._did("stream")

        async def silent() -> AsyncIterator[Event]:
            await anyio.sleep_forever()
            yield Idle("never", turn_over=True)

        yield silent()

    async def history(self) -> list[Event]:
        await self._did("history")
        return self.events

    async def post(self, _call: ToolUse, _result: Result) -> None:
        await self._did("post")


class Rig:
    def __init__(self, folder: Path, *history: Event) -> None:
        clock = SystemClock()
        self.control = ScriptedControl(*history)
        self.provider = FakeProvider()
        hands = Hands(self.provider, SandboxSpec(), lambda: 0.0)
        self.record = Record(folder / "audit.jsonl", clock)
        journal = Journal(folder / "journal")
        skills = Skills(folder / "skills", self.record, lambda: 0.0)
        self.bench = Bench(hands, journal, self.record, {}, 5.0, clock, lambda: 0.0, skills, gate())
        self.stop = Stop()

    async def serve(self, max_idle_s: float = 0.01, memory: MemoryTerms | None = None) -> Outcome:
        terms = Terms(max_idle_s, memory=memory)
        item = Item(self.control, self.control.work, self.bench, terms, self.stop)  # type: ignore[arg-type]  structurally one
        with anyio.fail_after(60):
            return await item.serve()


IDLE = Idle("i", turn_over=True)


async def test_an_idle_session_is_stopped(tmp_path: Path) -> None:
    rig = Rig(tmp_path, IDLE)
    assert await rig.serve() is Outcome.IDLE
    assert rig.control.log[0] == "ack"
    assert rig.control.log[-1] == "stop"
    assert rig.control.log.index("stream") < rig.control.log.index("history")


async def test_an_item_that_cannot_be_recorded_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise RecordFailed("full")

    rig = Rig(tmp_path, IDLE)
    monkeypatch.setattr(rig.record, "write", full)
    assert await rig.serve() is Outcome.RACED
    assert rig.control.log == []


@pytest.mark.parametrize(
    ("failures", "outcome", "log"),
    [
        ([Raced("409")], Outcome.RACED, ["ack"]),
        ([Refused("404", 404)], Outcome.RACED, ["ack", "stop"]),
        ([Away("503")] * 4, Outcome.RACED, ["ack"] * 4),
    ],
)
async def test_how_a_failing_acknowledgement_ends(
    tmp_path: Path, failures: list[Exception], outcome: Outcome, log: list[str]
) -> None:
    rig = Rig(tmp_path, IDLE)
    rig.control.failures["ack"] = failures
    assert await rig.serve() is outcome
    assert rig.control.log == log


async def test_an_acknowledgement_is_repeated(tmp_path: Path) -> None:
    rig = Rig(tmp_path, IDLE)
    rig.control.failures["ack"] = [Away("503")]
    assert await rig.serve() is Outcome.IDLE


async def test_a_session_that_may_not_be_read_is_given_back(tmp_path: Path) -> None:
    rig = Rig(tmp_path, IDLE)
    rig.control.failures["session"] = [Away("503"), Refused("403", 403)]
    assert await rig.serve() is Outcome.ENDED
    assert rig.control.log[-1] == "stop"


async def test_a_lost_lease_is_not_stopped(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Running("r"))
    rig.control.failures["heartbeat"] = [LeaseLost("412")]
    assert await rig.serve() is Outcome.LEASE
    assert "stop" not in rig.control.log


async def test_a_stop_is_repeated_and_then_left_to_the_lease(tmp_path: Path) -> None:
    rig = Rig(tmp_path, IDLE)
    rig.control.failures["stop"] = [Away("503")]
    assert await rig.serve() is Outcome.IDLE
    assert rig.control.log.count("stop") == 2
    refused = Rig(tmp_path / "2", IDLE)
    refused.control.failures["stop"] = [Refused("403", 403)]
    assert await refused.serve() is Outcome.IDLE


@pytest.mark.parametrize(
    ("history", "last"),
    [
        ([Running("r")], "heartbeat"),
        ([Running("r"), IDLE], "stop"),
        ([Running("r"), ToolUse("a", "lookup", {}), Idle("j", turn_over=False)], "heartbeat"),
    ],
)
async def test_a_drain_hands_over_what_is_under_way(
    tmp_path: Path, history: list[Event], last: str
) -> None:
    rig = Rig(tmp_path, *history)

    async def stop_later() -> None:
        await until(lambda: "history" in rig.control.log)
        await anyio.sleep(0.01)
        rig.stop.request()

    async with anyio.create_task_group() as group:
        group.start_soon(stop_later)
        assert await rig.serve(max_idle_s=60) is Outcome.DRAINED
    assert rig.control.log[-1] == last
    assert (rig.control.ttls[-1] == HANDOVER_TTL_S) is (last == "heartbeat")


async def test_a_bug_ends_only_its_own_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, IDLE)

    async def bug() -> list[Event]:
        raise ZeroDivisionError

    monkeypatch.setattr(rig.control, "history", bug)
    assert await rig.serve() is Outcome.FAILED
    assert rig.control.log[-1] == "stop"


async def test_cancelling_cleans_up_before_it_leaves(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Running("r"), ToolUse("a", "bash", {}, permission="allow"))

    async def forever(*_: object) -> None:
        rig.stop.request()
        scope.cancel()
        await anyio.sleep_forever()

    rig.provider.handler = forever  # type: ignore[assignment]  it never returns
    with anyio.CancelScope() as scope:
        await rig.serve()
    assert rig.provider.destroyed == ["sesn_1"]
    assert rig.control.ttls[-1] == HANDOVER_TTL_S


NOTES = Attached("memstore_1", "/mnt/memory/notes", read_only=False)


async def test_c25_14_c25_17_memory_is_there_before_the_first_call_and_synced_at_the_end(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, IDLE)
    rig.control.stores = (NOTES,)
    rig.control.work = Work("work_1", "env_1", "session", "sesn_1", "token-of-this-item")
    terms = MemoryTerms(tmp_path / "memory", 15.0)
    assert await rig.serve(memory=terms) is Outcome.IDLE
    log = rig.control.log
    assert log.index("full") < log.index("stream")
    assert log[-2:] == ["basic", "stop"]
    assert not (tmp_path / "memory" / "sesn_1").exists()


@pytest.mark.parametrize("token", [None, "token-of-this-item"])
async def test_c9_42_c25_15_an_item_whose_memory_cannot_be_had_is_stopped(
    tmp_path: Path, token: str | None
) -> None:
    rig = Rig(tmp_path, IDLE)
    rig.control.stores = (NOTES,)
    rig.control.work = Work("work_1", "env_1", "session", "sesn_1", token)
    rig.control.failures["full"] = [Refused("HTTP 403", 403)]
    assert await rig.serve(memory=MemoryTerms(tmp_path / "memory", 15.0)) is Outcome.FAILED
    assert "stream" not in rig.control.log
    assert rig.control.log[-1] == "stop"


async def test_c25_15_an_operator_may_leave_memory_out(tmp_path: Path) -> None:
    rig = Rig(tmp_path, IDLE)
    rig.control.stores = (NOTES,)
    assert await rig.serve() is Outcome.IDLE
    assert "full" not in rig.control.log
