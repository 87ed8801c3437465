from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Select, bindparam, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from intramuros.control.store.codec import dump
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.prepared import Prepared, sent, shaped
from intramuros.control.store.tables import events, leases, metadata, workspaces
from tests.engines import database_url, ignore_foreign_keys

pytestmark = pytest.mark.anyio

ADD = Prepared(insert(workspaces))
ALL = Prepared(select(workspaces).order_by(workspaces.c.id))
LEASE: dict[str, Any] = {
    "id": "l",
    "queue": "q",
    "key": "k",
    "state": "ready",
    "epoch": 0,
    "available_us": 1,
    "created_us": 1,
    "payload": {"a": [1, None, "é"]},
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(database_url(tmp_path / "i.db"))
    with database.engine.begin() as connection:
        metadata.create_all(connection)
    yield database
    database.close()


async def test_rows_read_as_sqlalchemys_do(database: Database) -> None:
    def work(tx: Tx) -> None:
        tx.run(ADD, {"id": "w", "name": "n", "created_us": 1, "body": {"tags": ["x"]}})
        tx.run(ADD, {"id": "v", "name": "n", "created_us": 2})
        mine, theirs = tx.run(ALL), tx.execute(select(workspaces).order_by(workspaces.c.id)).all()
        assert [tuple(row) for row in mine.all()] == [tuple(row) for row in theirs]
        assert [dict(row._mapping) for row in mine] == [dict(row._mapping) for row in theirs]
        first = mine.first()
        assert first is not None
        assert (first.id, first.body, first.archived_us) == ("v", None, None)
        assert mine.scalar() == "v"
        assert mine.scalars() == ["v", "w"]

    await database.write(work)


async def test_values_convert_on_both_ways(database: Database) -> None:
    flagged = Prepared(select(events.c.queued, events.c.body, events.c.private))

    def work(tx: Tx) -> None:
        tx.run(Prepared(insert(leases)), LEASE)
        lease = tx.run(Prepared(select(leases))).first()
        assert lease is not None
        assert (lease.payload, lease.holder) == (LEASE["payload"], None)
        ignore_foreign_keys(tx.connection)
        row = {"session_id": "s", "event_id": "e", "type": "t", "at_us": 1, "internal": False}
        rest = {"thread_id": None, "private": None, "shared": True, "body": {"x": 1}}
        rows = [{**row, **rest, "seq": seq, "queued": seq == 2} for seq in (1, 2)]
        tx.run_many(Prepared(insert(events)), rows)
        assert [tuple(found) for found in tx.run(flagged)] == [
            (False, {"x": 1}, None),
            (True, {"x": 1}, None),
        ]
        tx.run(Prepared(delete(events)))

    await database.write(work)


async def test_changes_tell_how_many_and_what(database: Database) -> None:
    ready = leases.c.state == "ready"
    take = Prepared(update(leases).where(ready).values(state="held").returning(leases.c.key))
    name = Prepared(update(leases).where(leases.c.id == bindparam("of_id")).values(holder="me"))

    def work(tx: Tx) -> None:
        tx.run(Prepared(insert(leases)), LEASE)
        assert tx.run(take).scalars() == ["k"]
        assert tx.run(take).first() is None
        assert tx.run(take).scalar() is None
        assert (tx.run(name, {"of_id": "l"}).rowcount, tx.run(name, {"of_id": "x"}).rowcount) == (
            1,
            0,
        )

    await database.write(work)


async def test_refusals_are_sqlalchemys_and_tell_no_values(database: Database) -> None:
    def twice(tx: Tx) -> None:
        for _ in range(2):
            tx.run(ADD, {"id": "secret-value", "name": "n", "created_us": 1})

    with pytest.raises(IntegrityError) as caught:
        await database.write(twice)
    assert "secret-value" not in str(caught.value)
    assert await database.read(lambda tx: tx.run(ALL).all()) == []


async def test_a_column_for_answers_stays_text(database: Database) -> None:
    shown = Prepared(select(workspaces.c.id, sent(workspaces.c.body)).order_by(workspaces.c.id))

    def work(tx: Tx) -> list[object]:
        tx.run(ADD, {"id": "v", "name": "n", "created_us": 1, "body": {"tags": ["é"]}})
        tx.run(ADD, {"id": "w", "name": "n", "created_us": 1})
        return [row.body for row in tx.run(shown)]

    kept, absent = await database.write(work)
    assert not isinstance(kept, dict)
    assert dump(kept) == '{"tags":["é"]}'.encode()
    assert absent is None


async def test_rows_added_together_are_each_their_own(database: Database) -> None:
    for count in (1, 3, 40):
        rows = [{"id": f"{count}-{n}", "name": f"'%s' {n}", "created_us": n} for n in range(count)]
        await database.write(lambda tx, rows=rows: tx.run_many(ADD, rows))
        found = await database.read(lambda tx: tx.run(ALL).all())
        mine = [row for row in found if row.id.startswith(f"{count}-")]
        wanted = [(row["id"], row["name"], row["created_us"]) for row in rows]
        assert sorted((r.id, r.name, r.created_us) for r in mine) == sorted(wanted)


async def test_a_text_is_run_on_either_engine(database: Database) -> None:
    raised = Prepared(
        text(
            "INSERT INTO workspaces (id, name, created_us) VALUES (:id, :name, :created_us)"
            " ON CONFLICT (id) DO UPDATE SET created_us = workspaces.created_us + 1"
        )
    )
    row = {"id": "w", "name": "W", "created_us": 1}
    await database.write(lambda tx: tx.run(raised, row).rowcount)
    await database.write(lambda tx: tx.run_many(raised, [row, row]))
    (found,) = await database.read(lambda tx: tx.run(ALL).all())
    assert found.created_us == 3


def test_a_list_of_values_cannot_be_prepared() -> None:
    listed = Prepared(select(workspaces).where(workspaces.c.id.in_(["a", "b"])))
    with pytest.raises(ValueError, match="cannot be prepared"):
        listed.plan({})


def test_each_shape_is_built_once() -> None:
    built = []

    @shaped
    def page(named: bool) -> Select[Any]:
        built.append(named)
        found = select(workspaces)
        return found.where(workspaces.c.name == bindparam("name")) if named else found

    assert page(True) is page(True)
    assert page(False) is not page(True)
    assert built == [True, False]
