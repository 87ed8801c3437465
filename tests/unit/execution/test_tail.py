from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import anyio
import pytest

from intramuros.execution import tail
from intramuros.execution.client import Away, Refused
from intramuros.execution.dispatch import Dispatch, Ended, Event, Other, ToolUse
from intramuros.execution.tail import Tail
from intramuros.kernel.timing import ManualClock

pytestmark = pytest.mark.anyio

END = Ended("end", deleted=False)


class ScriptedSource:
    """Each connection: what the history says and what the stream brings before it is cut."""

    def __init__(
        self, *connections: tuple[list[Event] | Exception, Iterable[Event | Exception]]
    ) -> None:
        self.connections = list(connections)
        self.log: list[str] = []

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[AsyncIterator[Event]]:
        self.log.append("stream")
        if not self.connections:
            raise Refused("gone", 404)
        self.now, live = self.connections.pop(0)

        async def events() -> AsyncIterator[Event]:
            for event in live:
                if isinstance(event, Exception):
                    raise event
                yield event

        yield events()

    async def history(self) -> list[Event]:
        self.log.append("history")
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


async def follow(source: ScriptedSource) -> tuple[Dispatch, int]:
    state, changes = Dispatch(frozenset({"bash"})), 0

    def changed() -> None:
        nonlocal changes
        changes += 1

    with anyio.fail_after(60):
        await Tail(source, state, changed, ManualClock(), lambda: 0.0).loop()
    return state, changes


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "BACKOFF_BASE_S", 0.001)
    monkeypatch.setattr(tail, "BACKOFF_CAP_S", 0.01)


@pytest.mark.rule("c22_1")
async def test_the_stream_is_open_before_the_history_is_read() -> None:
    source = ScriptedSource(([ToolUse("a", "bash", {})], [ToolUse("b", "bash", {}), END]))
    state, changes = await follow(source)
    assert source.log == ["stream", "history"]
    assert state.wanted("a")
    assert state.wanted("b")
    assert changes == 3


@pytest.mark.rule("c22_2")
async def test_a_cut_or_an_orderly_close_is_followed_by_another_connection() -> None:
    source = ScriptedSource(
        ([], [Other("1"), Away("cut")]), ([], []), ([], [Away("silent")]), ([], [END])
    )
    state, _ = await follow(source)
    assert state.ended == END
    assert source.log.count("stream") == source.log.count("history") == 4


@pytest.mark.parametrize("failure", [Away("503"), Refused("HTTP 400", 400)])
async def test_a_failed_history_is_read_again_on_a_new_stream(failure: Exception) -> None:
    source = ScriptedSource((failure, [ToolUse("a", "bash", {})]), ([], [END]))
    state, _ = await follow(source)
    assert source.log == ["stream", "history"] * 2
    assert not state.wanted("a")


async def test_a_refused_stream_is_final() -> None:
    state, _ = await follow(ScriptedSource(([], [])))
    assert state.ended is None


async def test_a_session_that_ended_before_is_not_waited_for() -> None:
    source = ScriptedSource(([END], [ToolUse("a", "bash", {})] * 5))
    state, _ = await follow(source)
    assert state.ended == END
