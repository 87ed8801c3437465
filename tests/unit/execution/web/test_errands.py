"""The worker's side of web calls, without a server and without a web."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from intramuros.execution.client import Away, Raced, Refused
from intramuros.execution.egress.policy import OwnRules
from intramuros.execution.outflow.gate import Gate
from intramuros.execution.outflow.policy import default_policy
from intramuros.execution.record import Record, RecordFailed
from intramuros.execution.web import errands as room
from intramuros.execution.web.errands import Errands
from intramuros.execution.web.ways import Outside
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import SystemClock
from intramuros.protocol.web_calls import WebCall
from intramuros.web.base import Answer
from intramuros.web.fetch import Fetcher
from intramuros.web.terms import Terms
from tests.unit.protocol.test_web_calls import CALL
from tests.waiting import until

pytestmark = pytest.mark.anyio
SECRET = "the-environment-key"


class Server:
    """Hands out calls and takes answers, or does not."""

    def __init__(self, *calls: WebCall | Exception) -> None:
        self.calls = list(calls)
        self.answers: list[tuple[str, dict[str, Any]]] = []
        self.troubles: list[Exception] = []
        self.still_wanted = True
        self.beats = 0
        self.beat_troubles: list[Exception] = []
        self.over = anyio.Event()

    async def poll(self) -> WebCall | None:
        await anyio.lowlevel.checkpoint()
        if not self.calls:
            await anyio.sleep_forever()
        found = self.calls.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def beat(self, call: WebCall) -> bool:
        self.beats += 1
        if self.beat_troubles:
            raise self.beat_troubles.pop(0)
        return self.still_wanted

    async def answer(self, call: WebCall, body: dict[str, Any]) -> None:
        if self.troubles:
            trouble = self.troubles.pop(0)
            if isinstance(trouble, Raced | Refused):
                self.over.set()
            raise trouble
        self.answers.append((call.id, body))
        self.over.set()


class Audit:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.refuses: str | None = None

    async def write(self, kind: str, **fields: Any) -> None:
        if kind == self.refuses:
            raise RecordFailed("the disk is full")
        self.lines.append((kind, fields))

    def note(self, kind: str, **fields: Any) -> None:
        self.lines.append((kind, fields))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.lines]


@pytest.fixture
def audit() -> Audit:
    return Audit()


@pytest.fixture(autouse=True)
def web(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A web that answers as a test says; a callable answers itself."""
    says: list[Any] = [Answer([{"type": "text", "text": f"a page with {SECRET}"}])]

    async def fetch(_self: Fetcher, wanted: Any) -> Answer:
        said = says[0]
        if callable(said):
            said = await said(wanted)
        assert isinstance(said, Answer)
        return said

    monkeypatch.setattr(Fetcher, "fetch", fetch)
    return says


def gate() -> Gate:
    opened = Gate(default_policy(), b"k" * 32)
    opened.learn("worker", [SECRET])
    return opened


def made(server: Server, audit: Audit) -> Errands:
    outside = Outside(OwnRules(), None, audit, SystemClock())  # type: ignore[arg-type]  # doubles
    return Errands(server, outside, Terms(), None, gate(), lambda: 0.0)  # type: ignore[arg-type]


async def run(server: Server, audit: Audit, *, until_over: bool = True) -> None:
    stop = Stop()
    async with anyio.create_task_group() as group:
        group.start_soon(made(server, audit).loop, stop)
        with anyio.move_on_after(5 if until_over else 0.3):
            await server.over.wait()
        stop.request()


async def test_a_call_is_made_recorded_masked_and_answered(audit: Audit) -> None:
    server = Server(Away("busy"), CALL)
    await run(server, audit)
    [(call_id, body)] = server.answers
    assert call_id == CALL.id
    assert SECRET not in str(body)
    assert body["is_error"] is False
    assert audit.kinds == ["web.call", "web.result"]
    (_, call), (_, result) = audit.lines
    assert (call["direction"], result["direction"]) == ("in", "out")
    assert (result["masked"], result["session_id"], result["tool"]) == (1, "sesn_1", "web_fetch")
    assert "a.example" not in str(audit.lines), "what is asked has a record of its own"


async def test_what_cannot_be_recorded_is_not_done(audit: Audit, web: list[Any]) -> None:
    async def never(_: Any) -> Answer:
        raise AssertionError("it was done all the same")

    web[0] = never
    audit.refuses = "web.call"
    server = Server(CALL)
    await run(server, audit)
    assert "cannot write its record" in str(server.answers)


async def test_what_cannot_be_recorded_does_not_leave(audit: Audit) -> None:
    audit.refuses = "web.result"
    server = Server(CALL)
    await run(server, audit, until_over=False)
    assert server.answers == []


async def test_a_failure_is_an_answer_and_tells_nothing(
    audit: Audit, web: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    async def fail(_: Any) -> Answer:
        raise RuntimeError("what a page said")

    web[0] = fail
    server = Server(CALL)
    await run(server, audit)
    [(_, body)] = server.answers
    assert body["is_error"] is True
    assert "unavailable" in str(body)
    assert "what a page said" not in str(body) + "".join(capfd.readouterr())


async def test_a_call_that_nobody_waits_for_is_dropped(
    audit: Audit, web: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BEAT_S", 0.01)
    hung_up = anyio.Event()

    async def hang(_: Any) -> Answer:
        try:
            await anyio.sleep_forever()
        finally:
            hung_up.set()
        raise AssertionError

    web[0] = hang
    server = Server(CALL)
    server.still_wanted = False
    async with anyio.create_task_group() as group:
        stop = Stop()
        group.start_soon(made(server, audit).loop, stop)
        with anyio.fail_after(60):
            await hung_up.wait()
        stop.request()
    assert server.answers == []
    assert audit.kinds == ["web.call", "web.abandoned"]


async def test_the_server_hears_of_the_worker_from_the_claim_to_the_answer(
    audit: Audit, web: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sign of life that fails is no reason to stop giving them."""
    monkeypatch.setattr(room, "BEAT_S", 0.01)
    server = Server(CALL)
    heard: list[int] = []

    async def slow(_: Any) -> Answer:
        server.beat_troubles = [Away("busy")]
        await until(lambda: server.beats >= 3)
        heard.append(server.beats)
        return Answer([{"type": "text", "text": "late"}])

    web[0] = slow
    server.troubles = [Away("busy")]
    await run(server, audit)
    assert len(server.answers) == 1
    assert server.beats > heard[0], "the way back counts too"


async def test_an_answer_is_given_again_until_it_is_taken_or_late(audit: Audit) -> None:
    server = Server(CALL)
    server.troubles = [Away("busy"), Away("busy")]
    await run(server, audit)
    assert len(server.answers) == 1
    for final in (Raced("late"), Refused("no", 400)):
        server = Server(CALL)
        server.troubles = [final]
        await run(server, audit)
        assert server.answers == []


async def test_a_server_without_such_calls_is_left_in_peace(audit: Audit) -> None:
    server = Server(Refused("HTTP 404", 404), CALL)
    stop = Stop()
    loop = made(server, audit)
    async with anyio.create_task_group() as group:
        group.start_soon(loop.loop, stop)
        while "no web calls" not in loop.doing:  # noqa: ASYNC110  a text, not an event
            await anyio.sleep(0.001)
        stop.request()
    assert server.calls == [CALL], "it is not asked again"


async def test_a_worker_without_an_engine_does_not_search(audit: Audit) -> None:
    server = Server(replace(CALL, name="web_search", asked="what"))
    await run(server, audit)
    assert "no search engine" in str(server.answers)


def test_the_double_is_like_the_record() -> None:
    assert {"write", "note"} <= set(dir(Record))
    assert Path(room.__file__).name == "errands.py"
