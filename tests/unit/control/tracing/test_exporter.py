import json
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sqlalchemy import func, insert, select

from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.metering_tables import telemetry_spans
from intramuros.control.store.migrate import upgrade
from intramuros.control.store.secrets import Sealer
from intramuros.control.store.tables import workspaces
from intramuros.control.tracing import destinations, exporter
from intramuros.control.tracing.deliver import Courier, NotDelivered
from intramuros.control.tracing.destinations import Rules
from intramuros.control.tracing.exporter import BATCH, MAX_ATTEMPTS, SUSTAINED_S, Desk, Exporter
from intramuros.control.tracing.otlp import Span
from intramuros.control.tracing.recorder import Recorder
from intramuros.kernel.errors import NotFound, RateLimited
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock, to_micros
from intramuros.protocol.resources.telemetry import DestinationCreate, DestinationUpdate
from tests.engines import database_url
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Post(Courier):
    """A courier that keeps what it is given, and fails as it is told."""

    def __init__(self) -> None:
        object.__setattr__(self, "sent", [])
        object.__setattr__(self, "fail", [])

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, kind: str) -> None:
        await anyio.lowlevel.checkpoint()
        request = ExportTraceServiceRequest.FromString(body)
        names = [s.name for r in request.resource_spans for c in r.scope_spans for s in c.spans]
        self.sent.append((url, dict(headers), names))  # type: ignore[attr-defined]
        if self.fail:  # type: ignore[attr-defined]
            raise self.fail.pop(0)  # type: ignore[attr-defined]


class House:
    """An exporter over a database on disk, with one destination."""

    def __init__(self, db: Database, clock: ManualClock, ids: IdFactory) -> None:
        self.db, self.clock = db, clock
        self.post: Any = Post()
        self.rules = Rules(Sealer(bytes(32), os.urandom))
        desk = Desk(db, clock, ids, "org", lambda: 0.5)
        self.exporter = Exporter(desk, self.rules, self.post, Recorder(clock))
        self.actor = Actor(clock, ids, "wrkspc_test", "apikey_test")

    async def make(self, **more: Any) -> str:
        body = {"endpoint_url": "https://c.example", "workspaces": {"type": "all"}, **more}
        request = DestinationCreate.model_validate(body)
        shown = await self.db.write(
            lambda tx: destinations.create(tx, self.actor, self.rules, request)
        )
        id: str = shown["id"]
        return id

    async def change(self, id: str, **body: Any) -> None:
        request = DestinationUpdate.model_validate(body)

        def work(tx: Tx) -> None:
            version = destinations.find_row(tx, id).version
            destinations.configure(tx, self.actor, self.rules, id, (version, request))

        await self.db.write(work)

    async def spans(self, *names: str, workspace_id: str = "wrkspc_test") -> None:
        now_us = to_micros(self.clock.now())

        def work(tx: Tx) -> None:
            for name in names:
                row = {"workspace_id": workspace_id, "at_us": now_us, "span": span(name)}
                tx.execute(insert(telemetry_spans).values(**row))

        await self.db.write(work)

    async def row(self, id: str) -> Any:
        return await self.db.read(lambda tx: destinations.find_row(tx, id))

    async def left(self) -> int:
        counted = select(func.count()).select_from(telemetry_spans)
        return int(await self.db.read(lambda tx: tx.scalar(counted)) or 0)

    @property
    def names(self) -> list[list[str]]:
        return [names for _, _, names in self.post.sent]


def span(name: str) -> Span:
    return Span(
        name=name,
        kind="internal",
        trace_id="1" * 32,
        span_id="2" * 16,
        parent_id="",
        start_us=1,
        end_us=2,
        error=None,
        attributes={},
        content={},
    )


@pytest.fixture
def house(tmp_path: Path, clock: ManualClock) -> Iterator[House]:
    db = Database.open(database_url(tmp_path / "test.db"))
    upgrade(db.engine)
    with db.engine.begin() as connection:
        for n, id in enumerate(("wrkspc_test", "wrkspc_other")):
            connection.execute(insert(workspaces).values(id=id, name=id, created_us=n))
    yield House(db, clock, IdFactory(clock, random.Random(7).randbytes))
    db.close()


async def test_spans_go_out_once_with_the_headers_and_are_dropped_then(house: House) -> None:
    id = await house.make(headers={"x-key": "secret"})
    await house.exporter.deliver_once()
    assert house.post.sent == []
    await house.spans("a", "b")
    await house.exporter.deliver_once()
    await house.exporter.deliver_once()
    assert house.post.sent == [
        ("https://c.example/v1/traces", {"x-key": "secret"}, ["a", "b"]),
    ]
    assert await house.left() == 0
    row = await house.row(id)
    assert (row.last_error, row.attempts, row.version) == (None, 0, 1)
    assert row.last_success_us == to_micros(house.clock.now())
    lines = await house.db.read(lambda tx: list(audit.read_lines(tx)))
    assert json.loads(lines[-1])["kind"] == "telemetry_destination.deliver"
    assert "secret" not in "".join(lines)


async def test_each_destination_gets_what_it_covers_and_none_waits_for_another(
    house: House,
) -> None:
    await house.make(endpoint_url="https://all.example")
    other = {"type": "include", "workspace_ids": ["wrkspc_other"]}
    await house.make(endpoint_url="https://other.example", workspaces=other)
    await house.make(endpoint_url="https://off.example", traces={"enabled": False})
    disabled = await house.make(endpoint_url="https://disabled.example")
    await house.change(disabled, state={"type": "disabled"})
    await house.spans("here")
    await house.spans("there", workspace_id="wrkspc_other")
    house.post.fail.append(NotDelivered("timeout"))
    await house.exporter.deliver_once()
    got = {url.split("/")[2]: names for url, _, names in house.post.sent}
    assert got == {"all.example": ["here", "there"], "other.example": ["there"]}
    house.clock.advance(3)
    await house.exporter.deliver_once()
    assert len(house.post.sent) == 3  # who failed is tried again, and nobody else
    assert await house.left() == 0


async def test_what_cannot_be_delivered_is_tried_and_then_dropped(house: House) -> None:
    id = await house.make()
    await house.spans("a")
    house.post.fail += [NotDelivered("HTTP error (status 503)")] * MAX_ATTEMPTS
    for n in range(MAX_ATTEMPTS):
        await house.exporter.deliver_once()
        assert len(house.post.sent) == n + 1
        await house.exporter.deliver_once()
        assert len(house.post.sent) == n + 1  # not before its time
        house.clock.advance(61)
    row = await house.row(id)
    assert (row.last_error, row.last_success_us) == ("HTTP error (status 503)", None)
    assert row.disabled is None
    await house.spans("b")
    await house.exporter.deliver_once()
    assert house.names[-1] == ["b"]
    row = await house.row(id)
    assert row.failing_us is None
    assert row.last_error == "HTTP error (status 503)"  # success does not clear it


async def test_what_will_never_be_taken_is_dropped_at_once(house: House) -> None:
    await house.make()
    await house.spans("a")
    house.post.fail.append(NotDelivered("HTTP error (status 400)", retryable=False))
    await house.exporter.deliver_once()
    await house.spans("b")
    await house.exporter.deliver_once()
    assert house.names == [["a"], ["b"]]


@pytest.mark.parametrize("reason", ["sustained_failure", "invalid_address"])
async def test_who_fails_for_a_day_is_disabled(house: House, reason: str) -> None:
    id = await house.make()
    for n in range(8):
        await house.spans(str(n))
        house.post.fail.append(NotDelivered("timeout", retryable=False, reason=reason))
        await house.exporter.deliver_once()
        assert (await house.row(id)).disabled == (reason if n == 7 else None)
        house.clock.advance(SUSTAINED_S / 7)
    row = await house.row(id)
    assert row.version == 2
    assert row.updated_us > row.created_us
    await house.spans("later")
    await house.exporter.deliver_once()
    assert len(house.post.sent) == 8
    await house.change(id, state={"type": "enabled"})
    await house.spans("new")
    await house.exporter.deliver_once()
    assert house.names[-1] == ["new"]


async def test_a_redirect_disables_at_once_but_not_a_destination_that_moved(house: House) -> None:
    id = await house.make()
    await house.spans("a")
    moved = NotDelivered("redirect (status 301)", retryable=False, reason="redirect")
    house.post.fail.append(moved)
    await house.exporter.deliver_once()
    assert (await house.row(id)).disabled == "redirect"
    await house.change(id, state={"type": "enabled"})
    await house.spans("b")
    house.post.fail.append(moved)
    batch = await house.db.write(lambda tx: house.exporter._claim(tx, id))
    assert batch is not None
    await house.change(id, endpoint_url="https://elsewhere.example")
    await house.db.write(lambda tx: house.exporter._settle(tx, batch, moved))
    assert (await house.row(id)).disabled is None


async def test_two_senders_never_take_the_same_spans(house: House) -> None:
    id = await house.make()
    await house.spans("a")
    first = await house.db.write(lambda tx: house.exporter._claim(tx, id))
    assert first is not None
    assert await house.db.write(lambda tx: house.exporter._claim(tx, id)) is None
    house.clock.advance(61)  # the first one died
    again = await house.db.write(lambda tx: house.exporter._claim(tx, id))
    assert again is not None
    assert [s["name"] for s in again.spans] == ["a"]


async def test_what_was_deleted_meanwhile_is_let_go(house: House) -> None:
    id = await house.make()
    await house.spans("a")
    batch = await house.db.write(lambda tx: house.exporter._claim(tx, id))
    assert batch is not None
    await house.db.write(lambda tx: destinations.remove(tx, house.actor, id))
    await house.db.write(lambda tx: house.exporter._settle(tx, batch, NotDelivered("timeout")))


async def test_batches_and_what_waits_are_bounded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await house.make()
    await house.spans(*(str(n) for n in range(BATCH + 5)))
    await house.exporter.deliver_once()
    await house.exporter.deliver_once()
    assert [len(names) for names in house.names] == [BATCH, 5]
    house.post.fail.append(NotDelivered("timeout"))
    await house.spans("old")
    await house.exporter.deliver_once()
    assert await house.left() == 1
    house.clock.advance(3601)
    await house.spans(*(str(n) for n in range(30)))
    monkeypatch.setattr(exporter, "KEEP_SPANS", 10)
    house.post.fail.append(NotDelivered("timeout"))
    await house.exporter.deliver_once()
    assert await house.left() == 10
    assert (await house.row(id)).disabled is None


async def test_a_span_that_cannot_be_encoded_stops_nobody(house: House) -> None:
    await house.make()
    await house.spans("a")

    def poison(tx: Tx) -> None:
        row = {"workspace_id": "wrkspc_test", "at_us": 1, "span": {**span("b"), "trace_id": "x"}}
        tx.execute(insert(telemetry_spans).values(**row))

    await house.db.write(poison)
    await house.exporter.deliver_once()
    await house.spans("c")
    await house.exporter.deliver_once()
    assert house.names == [["c"]]


async def test_R381_a_test_is_sent_once_and_forgotten(house: House) -> None:
    id = await house.make(headers={"x": "y"})
    before = await house.row(id)
    house.post.fail.append(NotDelivered("TLS failure"))
    told = await house.exporter.test("apikey_1", id)
    assert told == {
        "type": "telemetry_destination_test",
        "result": {"type": "failure", "error": "TLS failure"},
    }
    with pytest.raises(RateLimited) as soon:
        await house.exporter.test("apikey_1", id)
    assert soon.value.hints.retry_after_s == 10
    house.clock.advance(10)
    assert (await house.exporter.test("apikey_1", id))["result"] == {"type": "success"}
    assert house.names == [["anthropic.test"]] * 2
    assert await house.row(id) == before
    with pytest.raises(NotFound):
        await house.exporter.test("apikey_1", "tdst_no")


async def test_it_runs_until_it_is_stopped(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "PERIOD_S", 0.01)
    await house.make()
    await house.spans("a")
    stop = Stop()
    async with anyio.create_task_group() as group:
        group.start_soon(house.exporter.run, stop)
        await until(lambda: house.post.sent)
        stop.request()
