from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from intramuros.execution.egress.http1 import Head, Place
from intramuros.execution.egress.policy import Policy
from intramuros.execution.egress.pool import MAX_RESTING, REST_S, Pool, Resting, repeatable
from intramuros.execution.egress.secrets import HeaderRule, Secrets
from intramuros.kernel.timing import ManualClock
from tests.fakes.origin import Visit, answer
from tests.integration.execution.egress.rig import NAME, Rig, get, own, rig

pytestmark = pytest.mark.anyio
PLACE = Place("api.test", 443, "https")


class Leg(SimpleNamespace):
    """What a pool sees of a connection."""

    def __init__(self) -> None:
        super().__init__(broken=False, closed=False)

    def stale(self) -> bool:
        return bool(self.broken)

    def abort(self) -> None:
        self.closed = True


def rest(pool: Pool, clock: ManualClock, place: Place = PLACE) -> Any:
    leg: Any = Leg()
    pool.rest(Resting(place, leg, clock.monotonic()))
    return leg


async def test_a_connection_is_for_its_place_while_it_is_good() -> None:
    clock = ManualClock()
    pool = Pool(clock)
    first, second = rest(pool, clock), rest(pool, clock)
    assert pool.take(Place("api.test", 8443, "https")) is None
    assert pool.take(Place("api.test", 443, "http")) is None
    assert pool.take(PLACE) is second
    first.broken = True
    assert pool.take(PLACE) is None
    assert first.closed
    tired = rest(pool, clock)
    clock.advance(REST_S + 0.1)
    assert pool.take(PLACE) is None
    assert tired.closed
    pool.close()


async def test_few_rest_and_none_after_the_end() -> None:
    clock = ManualClock()
    pool = Pool(clock)
    legs = [rest(pool, clock) for _ in range(MAX_RESTING + 1)]
    assert [leg.closed for leg in legs] == [True] + [False] * MAX_RESTING
    pool.close()
    pool.close()
    assert all(leg.closed for leg in legs)
    assert rest(pool, clock).closed
    assert len(pool) == 0


async def test_what_rests_too_long_is_closed_with_nobody_asking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("intramuros.execution.egress.pool.REST_S", 0.02)
    clock = ManualClock()
    pool = Pool(clock)
    first = rest(pool, clock)
    clock.advance(0.015)
    second = rest(pool, clock)
    clock.advance(0.01)
    for _ in range(500):
        if first.closed:
            break
        await anyio.sleep(0.005)
    assert (first.closed, second.closed) == (True, False)
    clock.advance(1)
    for _ in range(500):
        if second.closed:
            break
        await anyio.sleep(0.005)
    assert second.closed
    pool.close()


@pytest.mark.parametrize(
    ("method", "length", "websocket", "may"),
    [(b"GET", 0, False, True), (b"HEAD", 0, False, True), (b"OPTIONS", 0, False, True),
     (b"POST", 0, False, False), (b"DELETE", 0, False, False), (b"GET", 3, False, False),
     (b"GET", None, False, False), (b"GET", 0, True, False)],
)  # fmt: skip
def test_what_may_be_sent_twice(
    method: bytes, length: int | None, websocket: bool, may: bool
) -> None:
    assert repeatable(Head(method, b"/", (), b"1.1", length, websocket)) is may


async def fetch(site: Rig, *lines: str, method: str = "GET", path: str = "/") -> int:
    return (await site.once(get(path, *lines, method=method))).status


async def test_one_program_after_the_other_uses_one_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intramuros.execution.egress.pool.REST_S", 600.0)
    async with rig(tmp_path) as site:
        assert [await fetch(site, path=f"/{n}") for n in range(3)] == [200] * 3
        assert site.origin.connections == 1
        # What changes something is not exposed to a connection that may be dying.
        assert await fetch(site, method="POST") == 200
        assert site.origin.connections == 2
        # Each stands in the record on its own, before it is sent.
        assert len(site.records("egress.request")) == 4


async def test_a_host_that_hung_up_meanwhile_is_dialled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intramuros.execution.egress.pool.REST_S", 600.0)

    async def once_more(visit: Visit) -> None:
        if len(site.origin.visits) == 2 and site.origin.connections == 1:
            await visit.stream.aclose()  # just when the next request comes in
            return
        await visit.send(answer())

    async with rig(tmp_path) as site:
        site.origin.answer = once_more
        assert [await fetch(site), await fetch(site)] == [200, 200]
        assert site.origin.connections == 2
        assert [visit.first for visit in site.origin.visits] == ["GET / HTTP/1.1"] * 3
        ends = site.records("egress.end")
        assert [end["ended"] for end in ends] == ["complete"] * 2


async def test_half_an_answer_is_not_asked_for_again(tmp_path: Path) -> None:
    async def half(visit: Visit) -> None:
        if len(site.origin.visits) == 1:
            await visit.send(answer())
            return
        await visit.send(b"HTTP/1.1 200 OK\r\ncontent-le")
        await visit.stream.aclose()

    async with rig(tmp_path) as site:
        site.origin.answer = half
        assert [await fetch(site), await fetch(site)] == [200, 502]
        assert len(site.origin.visits) == 2


@pytest.mark.parametrize("scheme", ["Negotiate", "NTLM"])
async def test_whoever_is_known_by_the_connection_keeps_it_to_himself(
    tmp_path: Path, scheme: str
) -> None:
    async with rig(tmp_path) as site:
        async with site.connect() as stream:
            ask = get("/", f"Authorization: {scheme} abc")
            assert (await site.ask(stream, ask)).status == 200
            # Whatever follows on it is bound to it as well.
            assert (await site.ask(stream, get())).status == 200
        assert await fetch(site) == 200
        assert site.origin.connections == 2


async def test_a_connection_with_a_lent_header_serves_nobody_else(tmp_path: Path) -> None:
    rule = HeaderRule(NAME, "/lent", "authorization", "Basic eDp5bG9uZ2VyLXRoYW4tZWlnaHQ=")
    async with rig(tmp_path) as site:
        with site.gate.lend(rule) as lease:
            assert await fetch(site, lease.header, path="/lent") == 200
        assert await fetch(site) == 200
        assert site.origin.connections == 2
        assert site.origin.visits[1].header("authorization") == []


async def test_two_sandboxes_share_no_connection(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        assert await fetch(site) == 200
        site.limit()  # another sandbox's gate
        assert await fetch(site) == 200
        assert site.origin.connections == 2


async def test_rules_that_changed_hold_for_a_connection_that_rests(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        assert await fetch(site) == 200
        site.gate.renew(Policy(own(site.port)), Secrets())
        async with site.connect() as stream:
            await stream.send(get())
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        assert len(site.origin.visits) == 1
