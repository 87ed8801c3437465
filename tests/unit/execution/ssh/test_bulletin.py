import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
import structlog

from intramuros.execution.server import Server
from intramuros.execution.ssh import bulletin as module
from intramuros.execution.ssh.bulletin import OVER, REVOKED, UNKNOWN, Bulletin
from intramuros.execution.ssh.revoked import Papers
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.ssh import STAY_S
from intramuros.protocol.ssh_revocations import MAX_BYTES, Revocations
from tests.waiting import until

pytestmark = pytest.mark.anyio

MINE = "SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDBuuRmQjqZ7n0GxEQ"
OTHER = "SHA256:aNiVztksCsDhcc0u9e8BgrJXVGDBuuRmQjqZ7n0GxEQ"
Answer = Callable[[httpx2.Request], httpx2.Response]


def listed(*serials: int, authority: str = MINE) -> Answer:
    said = Revocations(authority, frozenset(serials)).dump()
    return lambda _: httpx2.Response(200, json=said, headers={"etag": f'"{sorted(serials)}"'})


def status(code: int) -> Answer:
    return lambda _: httpx2.Response(code)


class Plane(Server):
    """A control plane that answers as it is told to."""

    asked: list[httpx2.Request]
    answer: Answer

    def client(self, path: str, headers: Any, timeout: Any) -> httpx2.AsyncClient:
        def handle(request: httpx2.Request) -> httpx2.Response:
            self.asked.append(request)
            return self.answer(request)

        return httpx2.AsyncClient(
            base_url=f"{self.base_url}{path}",
            headers=headers,
            transport=httpx2.MockTransport(handle),
        )


class Case:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.plane = Plane("http://plane.test")
        object.__setattr__(self.plane, "asked", [])
        self.says(listed())
        self.bulletin = Bulletin(self.plane, "secret", self.clock, 120.0, lambda: 0.0)

    def says(self, answer: Answer) -> None:
        object.__setattr__(self.plane, "answer", answer)

    def papers(self, serial: int, good_s: float = 300.0, **more: Any) -> Papers:
        ends_s = self.clock.now().timestamp() + good_s
        fields = {"authority": MINE, "revocable": True, "expires_s": ends_s, **more}
        return Papers(serial, "ada", "SHA256:x", **fields)

    async def heard(self) -> None:
        """Wait until a question that is asked from now on is answered."""
        count = len(self.plane.asked)
        await until(lambda: len(self.plane.asked) > count + 1)


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(module, "PERIOD_S", 0.01)
    monkeypatch.setattr(module, "_ABSENT_S", 0.01)
    return Case()


@asynccontextmanager
async def running(case: Case) -> AsyncIterator[None]:
    stop = Stop()
    async with anyio.create_task_group() as group:
        group.start_soon(case.bulletin.run, stop)
        await case.heard()
        yield
        stop.request()
    await case.bulletin.aclose()


async def test_nobody_comes_in_before_the_first_list_who_could_be_on_it(case: Case) -> None:
    mine = case.papers(7)
    own = case.papers(7, revocable=False, authority=OTHER)
    assert case.bulletin.refuses(mine) == UNKNOWN
    assert case.bulletin.refuses(own) is case.bulletin.ends(own) is None
    async with running(case):
        assert case.bulletin.refuses(mine) is None
        assert case.bulletin.refuses(own) is None
    (first, *_) = case.plane.asked
    assert str(first.url) == "http://plane.test/x/ssh_revocations"
    assert first.headers["authorization"] == "Bearer secret"


async def test_who_is_listed_stays_out_and_goes(case: Case) -> None:
    mine, other = case.papers(7), case.papers(8)
    async with running(case):
        assert case.bulletin.ends(mine) is None
        case.says(listed(7, 9))
        await case.heard()
        assert case.bulletin.refuses(mine) == case.bulletin.ends(mine) == REVOKED
        assert case.bulletin.refuses(other) is case.bulletin.ends(other) is None
        # A company's certificate may have the same number.
        company = case.papers(7, revocable=False, authority=OTHER)
        assert case.bulletin.refuses(company) is None


async def test_what_is_known_is_not_told_again(case: Case) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.headers.get("if-none-match") == '"[7]"':
            return httpx2.Response(304)
        return listed(7)(request)

    case.says(answer)
    async with running(case):
        for _ in range(3):
            case.clock.advance(100)
            await case.heard()
        # Heard again each time: it never grew old.
        assert case.bulletin.refuses(case.papers(8)) is None
        assert case.bulletin.refuses(case.papers(7)) == REVOKED
    assert sum("if-none-match" not in one.headers for one in case.plane.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        status(401),
        status(404),
        status(500),
        status(204),
        status(304),
        status(302),
        lambda _: httpx2.Response(200, text="<html>"),
        lambda _: httpx2.Response(200, json={"type": "ssh_revocations"}),
        lambda _: httpx2.Response(200, content=b" " * (MAX_BYTES + 1)),
        listed(8, authority=OTHER),
    ],
    ids=["key", "path", "broken", "empty", "same", "moved", "page", "half", "long", "another"],
)
async def test_without_word_nobody_comes_in_and_who_is_in_stays_as_long_as_the_certificate(
    case: Case, answer: Answer
) -> None:
    async with running(case):
        case.says(listed(9))
        await case.heard()

        # What was told before is no answer to somebody who did not say that he knows it.
        case.bulletin._etag = None
        case.says(answer)
        await case.heard()
        mine, gone = case.papers(7), case.papers(9)
        another = answer.__qualname__.startswith("listed")
        if not another:
            # For a while what was heard last is good enough.
            assert case.bulletin.refuses(mine) is None
            assert case.bulletin.ends(gone) == REVOKED
        case.clock.advance(121)
        await case.heard()
        assert case.bulletin.refuses(mine) == UNKNOWN
        assert case.bulletin.ends(mine) is None
        if not another:
            assert case.bulletin.ends(gone) == REVOKED
        case.clock.advance(180)
        await case.heard()
        assert case.bulletin.ends(mine) == UNKNOWN
        case.says(listed())
        await case.heard()
        assert case.bulletin.refuses(mine) is case.bulletin.ends(mine) is None


async def test_a_day_after_its_certificate_everybody_goes(case: Case) -> None:
    mine = case.papers(7, good_s=10)
    async with running(case):
        case.clock.advance(10 + STAY_S)
        await case.heard()
        assert case.bulletin.ends(mine) is None
        case.clock.advance(1)
        await case.heard()
        assert case.bulletin.ends(mine) == OVER


async def test_a_server_without_a_list_is_said_once_and_changes_nothing_for_others(
    case: Case,
) -> None:
    case.says(status(404))
    with structlog.testing.capture_logs() as logs:
        async with running(case):
            for _ in range(3):
                await case.heard()
            company = case.papers(7, revocable=False, authority=OTHER)
            assert case.bulletin.refuses(company) is None
            assert case.bulletin.refuses(case.papers(7)) == UNKNOWN
            assert case.bulletin.doing == "the server has no list"
    assert [one["event"] for one in logs] == ["ssh_revocations_not_offered"]


async def test_trouble_is_said_once_and_so_is_its_end(case: Case) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running(case):
            case.says(status(503))
            await case.heard()
            case.clock.advance(121)
            await case.heard()
            await case.heard()
            case.says(listed(5))
            await case.heard()
            await case.heard()
            assert case.bulletin.doing == "1 certificates are revoked"
    assert [one["event"] for one in logs] == [
        "ssh_revocations_heard",
        "ssh_revocations_unanswered",
        "ssh_revocations_too_old",
        "ssh_revocations_back",
    ]
    assert "secret" not in json.dumps(logs)


async def test_a_broken_way_is_no_end_of_asking(case: Case) -> None:
    def cut(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("no")

    case.says(cut)
    async with running(case):
        case.says(listed())
        await until(lambda: case.bulletin.refuses(case.papers(1)) is None)
