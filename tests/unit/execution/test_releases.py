import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from intramuros.execution.client import Away, Refused, Work
from intramuros.execution.outflow.findings import Action
from intramuros.execution.outflow.results import Found
from intramuros.execution.record import Record, RecordFailed
from intramuros.execution.releases import (
    Answer,
    Matter,
    Question,
    ReleaseClient,
    Releases,
    read_answer,
)
from intramuros.execution.server import Server
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.timing import ManualClock
from tests.fakes.outflow import FakePeople

pytestmark = pytest.mark.anyio
FOUND = Found(Action.ASK, {"jwt": 2}, ("a" * 32,), 2)
MATTER = Matter("output", FOUND, 12, "d" * 32, "a [masked jwt]")


class Rig:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.path = folder / "audit.jsonl"
        self.record = Record(self.path, self.clock)
        self.people = FakePeople()
        client: Any = self.people
        self.releases = Releases(client, "sesn_1", self.record, self.clock, 600.0)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in read_lines(self.path)]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    yield made
    await made.releases.aclose()
    made.record.close()


async def test_a_question_says_what_it_may_and_no_more(rig: Rig) -> None:
    asked = rig.releases.question(MATTER)
    assert asked.id == "ask_" + "d" * 32
    assert rig.releases.question(MATTER, "sevt_1").id == "sevt_1"
    assert rig.releases.question(MATTER, "no/id").id == asked.id
    assert (asked.rules, asked.size_bytes, asked.excerpt) == ({"jwt": 2}, 12, "a [masked jwt]")
    long = Matter("output", FOUND, 1, "d" * 32, "x" * 9_000)
    assert len(rig.releases.question(long).excerpt) == 4_000


async def test_it_is_asked_until_it_is_answered_and_recorded_both_ways(rig: Rig) -> None:
    asked = rig.releases.question(MATTER)
    assert await rig.releases.look(asked) is None
    rig.people.answer = Away("503")
    assert await rig.releases.look(asked) is None
    rig.people.answer = Answer(True, by="key_1")
    assert await rig.releases.look(asked) == Answer(True, by="key_1")
    rig.people.answer = AssertionError()
    assert await rig.releases.look(asked) == Answer(True, by="key_1")
    (question, answer) = rig.records()
    assert (question["kind"], question["fields"]["direction"]) == ("release.ask", "out")
    assert (answer["kind"], answer["fields"]["direction"]) == ("release.answer", "in")
    assert answer["fields"]["rule"] == "allow"
    assert answer["fields"]["by"] == "key_1"
    assert question["fields"]["digest"] == answer["fields"]["digest"] == "d" * 32
    assert "masked jwt" not in json.dumps([question, answer])


async def test_late_and_to_nobody_the_answer_is_no(rig: Rig) -> None:
    asked = rig.releases.question(MATTER)
    rig.clock.advance(600)
    late = await rig.releases.look(asked)
    assert late is not None
    assert not late.allowed
    assert rig.people.asked == []
    alone = Releases(None, "sesn_1", rig.record, rig.clock, 600.0)
    nobody = await alone.look(alone.question(MATTER))
    assert nobody is not None
    assert not nobody.allowed
    rig.people.answer = Refused("HTTP 404", 404)
    refused = await rig.releases.look(rig.releases.question(MATTER, "other"))
    assert refused is not None
    assert not refused.allowed


def full_disk(_lines: object) -> None:
    raise OSError(28, "No space left on device")


async def test_what_cannot_be_recorded_is_neither_asked_nor_believed(rig: Rig) -> None:
    asked = rig.releases.question(MATTER)
    assert await rig.releases.look(asked) is None
    rig.people.answer = Answer(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig.record._file, "append_all", full_disk)
        with pytest.raises(RecordFailed):
            await rig.releases.look(asked)
        with pytest.raises(RecordFailed):
            await rig.releases.look(rig.releases.question(MATTER, "other"))
    assert [one.id for one in rig.people.asked] == [asked.id, asked.id]


SHOWN = {"id": "sevt_1", "digest": "d" * 32, "status": "open"}


def asked() -> Question:
    return Question("sevt_1", "tool_result", {"jwt": 1}, 1, "d" * 32, "", "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("shown", "allowed", "why"),
    [
        ({"status": "allowed", "decided_by": "key_1"}, True, ""),
        ({"status": "denied", "deny_message": "no"}, False, "A person refused it (no)."),
        ({"status": "denied", "deny_message": 7}, False, "A person refused it."),
        ({"status": "expired"}, False, "Nobody answered in time whether it may leave."),
    ],
)
def test_answers_are_read(shown: dict[str, Any], allowed: bool, why: str) -> None:
    answer = read_answer({**SHOWN, **shown}, asked())
    assert answer is not None
    assert (answer.allowed, answer.why) == (allowed, why)
    assert read_answer(SHOWN, asked()) is None


@pytest.mark.parametrize(
    "shown",
    [
        None,
        [],
        {},
        {**SHOWN, "id": "other"},
        {**SHOWN, "digest": "e" * 32, "status": "allowed"},
        {**SHOWN, "status": "maybe"},
        {**SHOWN, "status": True},
    ],
)
def test_another_answer_is_none(shown: Any) -> None:
    with pytest.raises(ValueError, match="answer"):
        read_answer(shown, asked())


@pytest.mark.parametrize(
    ("respond", "error"),
    [
        (lambda _: httpx2.Response(404), Refused),
        (lambda _: httpx2.Response(503), Away),
        (lambda _: httpx2.Response(200, content=b"{"), Away),
        (lambda _: httpx2.Response(200, json={**SHOWN, "digest": "other"}), Away),
        (lambda _: httpx2.Response(200, content=b" " * 70_000), Away),
    ],
)
async def test_a_client_tells_what_went_wrong(
    respond: Callable[[httpx2.Request], httpx2.Response], error: type[Exception]
) -> None:
    client = made(respond)
    with pytest.raises(error):
        await client.ask(asked(), 5)
    await client.aclose()


async def test_a_client_sends_the_question(tmp_path: Path) -> None:
    sent: list[Any] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.content))
        assert request.url.path == "/x/sessions/sesn_1/releases"
        assert request.headers["authorization"] == "Bearer token_1"
        return httpx2.Response(200, json=SHOWN)

    client = made(respond)
    assert await client.ask(asked(), 5) is None
    await client.aclose()
    assert sent == [
        {
            "id": "sevt_1",
            "subject": "tool_result",
            "rules": {"jwt": 1},
            "size_bytes": 1,
            "digest": "d" * 32,
            "excerpt": "",
            "wait_s": 5,
        }
    ]


def made(respond: Callable[[httpx2.Request], httpx2.Response]) -> ReleaseClient:
    client = ReleaseClient(
        Server("http://server"), Work("w", "env_1", "session", "sesn_1", "token_1")
    )
    client._http = httpx2.AsyncClient(
        base_url=client._http.base_url,
        headers=client._http.headers,
        transport=httpx2.MockTransport(respond),
    )
    return client
