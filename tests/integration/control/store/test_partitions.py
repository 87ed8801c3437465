"""The log in partitions, on a real PostgreSQL: made, cut ahead of time, emptied and dropped."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import psycopg
import pytest
from alembic.runtime.environment import EnvironmentContext
from sqlalchemy import Connection, select, text

from intramuros.control import retention
from intramuros.control.retention import Retention
from intramuros.control.store import events as log
from intramuros.control.store import migrate, partitions, removed_logs, snapshots, whole
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.partitions import Partition, bound_at
from intramuros.control.store.tables import audit, events, metadata, sessions, workspaces
from intramuros.kernel.errors import Unavailable
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock
from tests.fakes.world import World
from tests.postgres import Cluster
from tests.unit.control.test_jobs import Stage

pytestmark = pytest.mark.anyio

DAY = 86_400
START = datetime(2026, 1, 10, tzinfo=UTC)


@pytest.fixture
def bare_url(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database without a table."""
    yield cluster.bare(request.node.nodeid)
    cluster.drop_bare(request.node.nodeid)


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    opened = Database.open(url)
    with opened.engine.begin() as connection:
        connection.execute(workspaces.insert().values(id="wrkspc_test", name="T", created_us=1))
    yield opened
    opened.close()


@pytest.fixture
async def stage(db: Database) -> Stage:
    clock = ManualClock(START)
    ids = IdFactory(clock, os.urandom)
    world = await db.write(lambda tx: World(tx, clock, ids, "wrkspc_test", db))
    return Stage(db, world)


def job(stage: Stage, days: float = 30) -> Retention:
    return Retention(
        stage.db,
        stage.world.clock,
        stage.world.sessions.removal,
        days=days,
        rand=lambda: 0.0,
    )


async def made(stage: Stage, *, end: bool = True, db: Database | None = None) -> str:
    session_id: str = await stage.act(lambda w: w.create())
    await stage.act(lambda w: w.say(session_id))
    await stage.act(lambda w: w.run(session_id))
    if end:
        await stage.act(lambda w: w.sessions.archive(w.tx, w.api, session_id))
    return session_id


async def parts(stage: Stage) -> list[Partition]:
    return await stage.db.read(lambda tx: partitions.found(tx.connection))


async def spans(stage: Stage) -> list[str]:
    """The partitions as months: ``-02`` is of everything before February."""

    def month(bound: str | None) -> str:
        at = partitions.time_of(bound or "")
        return "" if at is None else f"{at:%m}"

    found = await parts(stage)
    assert partitions.whole(found)
    return [f"{month(part.lower)}-{month(part.upper)}" for part in found]


async def rows(stage: Stage, session_id: str) -> int:
    return len(await stage.db.read(lambda tx: log.read(tx, session_id)))


async def spread(stage: Stage) -> list[str]:
    """Make a session that ends in January, one in February and one in March."""
    ids = []
    for days in (31, 28, 31):
        await job(stage, days=0).look_once()
        ids.append(await made(stage))
        stage.world.clock.advance(days * DAY)
    return ids


def test_a_migrated_database_has_what_the_tables_say(db: Database, cluster: Cluster) -> None:
    url = cluster.bare("fresh")
    fresh = Database.open(url)
    with fresh.engine.begin() as connection:
        metadata.create_all(connection)
    assert shape(db) == shape(fresh)
    fresh.close()
    cluster.drop_bare("fresh")


SHAPE = {
    "columns": "SELECT table_name, column_name, data_type, collation_name, is_nullable,"
    " column_default FROM information_schema.columns WHERE table_schema = 'public'",
    # Of a partition's own constraints and indexes the names tell nothing.
    "constraints": "SELECT conrelid::regclass::text, pg_get_constraintdef(oid)"
    " FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
    "indexes": "SELECT CASE tablename WHEN 'events_p0' THEN '' ELSE indexname END,"
    " regexp_replace(indexdef, 'INDEX .* ON', 'ON') FROM pg_indexes WHERE schemaname = 'public'",
    "partitions": "SELECT relname, relkind, pg_get_partkeydef(oid), pg_get_expr(relpartbound, oid)"
    " FROM pg_class WHERE relname ~ '^events' AND relkind IN ('p', 'r')",
    "triggers": "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
}


def shape(db: Database) -> dict[str, list[str]]:
    """Everything that both ways of making a database must agree on."""
    with db.engine.connect() as connection:
        return {
            name: sorted(
                str(row)
                for row in connection.exec_driver_sql(sql)
                if "alembic_version" not in str(row)
            )
            for name, sql in SHAPE.items()
        }


@contextmanager
def schema_before(url: str) -> Iterator[Database]:
    """A database of the release before the log was in partitions."""
    opened = Database.open(url)
    directory = migrate.scripts()
    plan = lambda current, _: directory._upgrade_revs("0025", current)  # noqa: E731  one line twice as clear
    with (
        opened.engine.begin() as connection,
        EnvironmentContext(migrate._config(), directory, fn=plan) as environment,
    ):
        environment.configure(connection=connection, render_as_batch=True)
        environment.run_migrations()
    yield opened
    opened.close()


def files(url: str) -> dict[str, int]:
    """Where the rows and the indexes of the log lie on disk."""
    with psycopg.connect(url) as there:
        found = there.execute(
            "SELECT regexp_replace(relname, '_p0', ''), relfilenode FROM pg_class"
            " WHERE relname ~ '^(events|pk_events|ix_events)' AND relkind IN ('r', 'i')"
        ).fetchall()
    return {str(name): int(node) for name, node in found}


def test_the_table_becomes_a_partition_as_it_is_under_a_server_of_before(bare_url: str) -> None:
    add = "INSERT INTO events VALUES (%s, %s, %s, 'x', NULL, false, false, 1, '{}', NULL, false)"
    see = "SELECT * FROM events WHERE session_id = %s AND seq > %s ORDER BY seq"
    with schema_before(bare_url) as opened, psycopg.connect(bare_url, autocommit=True) as old:
        old.execute("SET session_replication_role = replica")
        for name in ("sesn_1", "sesn_2"):
            fields = "id, workspace_id, environment_id, environment_kind, agent_id, agent_version"
            old.execute(
                f"INSERT INTO sessions ({fields}, agent, metadata, resources, vault_ids, status,"
                " state, last_seq, created_us, updated_us) VALUES"
                " (%s, 'w', 'e', 'k', 'a', 1, '{}', '{}', '[]', '[]', 'idle', '{}', 0, 1, 1)",
                (name,),
            )
        old.execute("SET session_replication_role = origin")
        # The server of before has its statements prepared by now.
        for n in range(10):
            old.execute(add, ("sesn_1", n, f"e{n}"))
            old.execute(see, ("sesn_1", 0)).fetchall()
        before = files(bare_url)
        migrate.upgrade(opened.engine)
        assert files(bare_url) == before
        old.execute(add, ("sesn_1", 10, "e10"))
        assert len(old.execute(see, ("sesn_1", 0)).fetchall()) == 10
        old.execute("DELETE FROM sessions WHERE id = 'sesn_1'")
        found = old.execute("SELECT session_id FROM removed_logs").fetchall()
        assert found == [("sesn_1",)]
        assert (
            old.execute("SELECT conname FROM pg_constraint WHERE conname ~ 'fk_events'").fetchall()
            == []
        )


async def test_months_get_their_partitions_before_they_begin(stage: Stage) -> None:
    assert await spans(stage) == ["-"]
    for _ in range(3):  # once is enough
        await job(stage).look_once()
    assert await spans(stage) == ["-02", "02-"]
    stage.world.clock.advance(14 * DAY)  # the 24th
    await job(stage).look_once()
    assert await spans(stage) == ["-02", "02-"]
    stage.world.clock.advance(1 * DAY)
    await job(stage).look_once()
    assert await spans(stage) == ["-02", "02-03", "03-"]
    # Nobody was there for months: the last one has taken everything meanwhile.
    stage.world.clock.advance(100 * DAY)
    late = await made(stage)
    await job(stage).look_once()
    assert await spans(stage) == ["-02", "02-03", "03-06", "06-"]
    assert await rows(stage, late) > 0


async def test_a_log_that_was_there_is_cut_without_keeping_anybody_out(stage: Stage) -> None:
    old = await made(stage, end=False)
    before = await rows(stage, old)
    work = job(stage)
    due = await stage.db.read(work._due)
    assert due is not None
    last, at = due
    # Killed behind each step, the next look goes on.
    await stage.db.write(lambda tx: work._begin_cut(tx, last.name, at))
    assert await made(stage)
    (cut,) = await parts(stage)
    assert (cut.cut, cut.proven) == (at, False)
    assert await stage.db.read(work._due) == (cut, at)
    assert partitions.Proof(stage.db.engine, cut).run()
    (cut,) = await parts(stage)
    assert cut.proven
    await job(stage).look_once()
    assert await spans(stage) == ["-02", "02-"]
    assert [(part.cut, part.row_bytes > 0) for part in await parts(stage)] == [
        (None, True),
        (None, False),
    ]
    assert await rows(stage, old) == before


async def test_a_cut_that_was_left_long_ago_is_made_elsewhere(stage: Stage) -> None:
    await made(stage)
    work = job(stage)
    last, at = await stage.db.read(work._due)  # type: ignore[misc]  it is due
    await stage.db.write(lambda tx: work._begin_cut(tx, last.name, at))
    stage.world.clock.advance(21 * DAY + 1)
    await job(stage).look_once()
    assert await spans(stage) == ["-03", "03-"]


async def test_a_proof_ends_when_the_server_does(stage: Stage) -> None:
    await made(stage)
    work = job(stage)
    last, at = await stage.db.read(work._due)  # type: ignore[misc]  it is due
    await stage.db.write(lambda tx: work._begin_cut(tx, last.name, at))
    stop = Stop()
    # Somebody else's lock keeps the proof waiting until it is cancelled.
    with psycopg.connect(str(stage.db.backend.shared_url)) as other, anyio.fail_after(50):
        other.execute(f"LOCK TABLE {last.name} IN SHARE UPDATE EXCLUSIVE MODE")
        async with anyio.create_task_group() as group:
            group.start_soon(work.lay_out, stop)
            await until_waiting(stage)
            stop.request()
    assert await spans(stage) == ["-"]
    await job(stage).look_once()
    assert await spans(stage) == ["-02", "02-"]


async def until_waiting(stage: Stage) -> None:
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    while not await stage.db.read(lambda tx: tx.scalar(waiting)):  # noqa: ASYNC110  nobody tells
        await anyio.sleep(0.02)


async def test_several_servers_at_once_cut_once(stage: Stage, url: str) -> None:
    await made(stage)
    other = Database.open(url)
    try:
        async with anyio.create_task_group() as group:
            for each in (stage, Stage(other, stage.world)):
                for _ in range(2):
                    group.start_soon(job(each).look_once)
    finally:
        other.close()
    assert await spans(stage) == ["-02", "02-"]


async def test_a_clock_that_ran_ahead_leaves_every_log_a_place(stage: Stage) -> None:
    await job(stage).look_once()
    stage.world.clock.advance(400 * DAY)
    ahead = await made(stage)
    stage.world.clock.advance(-400 * DAY)
    stage.world.clock.advance(50 * DAY)  # March 2026 begins, and the last one holds rows of 2027
    await job(stage).look_once()
    assert (await parts(stage))[-1].lower == bound_at(datetime(2027, 3, 1, tzinfo=UTC))
    assert await rows(stage, ahead) > 0


async def test_ids_that_tell_no_time_stop_the_cutting_only(stage: Stage) -> None:
    session_id = await made(stage)

    def strange(tx: Tx) -> None:
        values = {"session_id": "sesn_strange", "seq": 1, "event_id": "x", "type": "x"}
        flags = {"queued": False, "internal": False, "at_us": 1, "body": {}}
        tx.execute(events.insert().values(**values, **flags))

    await stage.db.write(strange)
    await job(stage).look_once()
    assert await spans(stage) == ["-"]
    assert await rows(stage, session_id) > 0


async def test_a_month_whose_sessions_are_over_goes_in_one_piece(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    january, february, march = await spread(stage)
    monkeypatch.setattr(removed_logs, "clear", None)  # no row is removed by itself
    assert await spans(stage) == ["-02", "02-03", "03-04", "04-"]
    await job(stage, 35).look_once()
    # Its sessions are deleted; a snapshot that was made before may still want their logs.
    assert await left(stage) == {march}
    assert await rows(stage, january) > 0
    assert await rows(stage, february) > 0
    await remove_times(stage)
    await job(stage, 35).look_once()
    assert await rows(stage, january) == await rows(stage, february) == 0
    assert await spans(stage) == ["-03", "03-04", "04-05", "05-"]
    assert await rows(stage, march) > 0
    assert await stage.db.read(lambda tx: removed_logs.waiting(tx, 9)) == []
    kinds = await stage.db.read(
        lambda tx: tx.execute(select(audit.c.kind).order_by(audit.c.seq)).scalars().all()
    )
    assert list(kinds[-4:]) == ["session.delete"] * 2 + ["log.drop"] * 2
    # Somebody whose clock is wrong makes a session of January: it has its place.
    stage.world.clock.advance(-80 * DAY)
    again = await made(stage, end=False)
    assert await rows(stage, again) > 0
    assert (await parts(stage))[0].holds(again)


async def remove_times(stage: Stage) -> None:
    """Have sessions been deleted ten minutes ago by the database's clock."""
    earlier = "UPDATE removed_logs SET removed_us = removed_us - 601000000"
    await stage.act(lambda w: w.tx.execute(text(earlier)))


async def left(stage: Stage) -> set[str]:
    return set(await stage.db.read(lambda tx: tx.execute(select(sessions.c.id)).scalars().all()))


async def test_beside_a_session_that_lives_rows_go_in_batches(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removed_logs, "BATCH", 2)
    monkeypatch.setattr(retention, "CLEARED", 3)
    old, alive = await made(stage), await made(stage, end=False)
    await job(stage).look_once()
    stage.world.clock.advance(60 * DAY)
    await job(stage).look_once()
    await remove_times(stage)
    # What remains of the log when it is killed between two batches is removed by the next look.
    assert 0 < await rows(stage, old) < 10
    whole_log = await rows(stage, alive)
    while await job(stage).look_once():
        assert await left(stage) == {alive}
    assert await rows(stage, old) == 0
    assert await rows(stage, alive) == whole_log
    assert await spans(stage) == ["-02", "02-04", "04-"]


async def test_a_log_is_only_removed_of_what_was_deleted(stage: Stage) -> None:
    alive = await made(stage)
    assert await stage.act(lambda w: removed_logs.clear(w.tx, alive)) == 0
    assert await rows(stage, alive) > 0


async def test_nobody_waits_behind_somebody_who_reads_the_log_for_long(
    stage: Stage, url: str
) -> None:
    january, *_ = await spread(stage)
    with psycopg.connect(url) as other:
        other.execute("SELECT count(*) FROM events")
        while not await stage.db.read(_watched):  # noqa: ASYNC110  nobody tells
            await anyio.sleep(0.05)
        await job(stage, 10).look_once()
        await remove_times(stage)
        stage.world.clock.advance(60 * DAY)
        await job(stage, 10).look_once()
        assert await rows(stage, january) > 0
        assert await spans(stage) == ["-02", "02-03", "03-04", "04-"]
    await job(stage, 10).look_once()
    assert await rows(stage, january) == 0


def _watched(tx: Tx) -> bool:
    return partitions.watched(tx.connection)


async def test_a_lock_that_is_not_to_be_had_is_tried_for_another_time(
    stage: Stage, url: str
) -> None:
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE events IN ACCESS SHARE MODE")
        with pytest.raises(Unavailable, match="reading the log"):
            await force_cut(stage)
    await job(stage).look_once()
    assert await spans(stage) == ["-02", "02-"]


async def force_cut(stage: Stage) -> None:
    def cut(tx: Tx) -> None:
        (last,) = partitions.found(tx.connection)
        with partitions.briefly(tx.connection):
            partitions.finish_cut(tx.connection, last, bound_at(stage.world.clock.now()))

    await stage.db.write(cut)


async def test_two_servers_at_once_drop_a_partition_once(stage: Stage, url: str) -> None:
    await spread(stage)
    await job(stage, 1).look_once()
    await remove_times(stage)
    other = Database.open(url)
    try:
        async with anyio.create_task_group() as group:
            for each in (stage, Stage(other, stage.world)):
                group.start_soon(job(each, 1).look_once)
    finally:
        other.close()
    dropped = select(audit.c.seq).where(audit.c.kind == "log.drop")
    assert len(await stage.db.read(lambda tx: tx.execute(dropped).all())) == 3
    assert await spans(stage) == ["-04", "04-05", "05-"]


async def test_a_copy_of_all_leaves_out_what_is_deleted_and_holds_the_rest(
    stage: Stage, url: str
) -> None:
    january, february, _ = await spread(stage)
    delete = sessions.delete().where(sessions.c.id == january)
    await stage.act(lambda w: w.tx.execute(delete))

    def of(connection: Connection) -> set[Any]:
        return {row[0] for row in whole._rows(connection, events)}

    with snapshots.reading(stage.db) as connection:
        assert january not in of(connection)
        assert february in of(connection)
        assert list(whole._rows(connection, metadata.tables["removed_logs"])) == []
        # The snapshot holds the log from its first moment: no partition goes under it.
        with (
            psycopg.connect(url, autocommit=True) as other,
            pytest.raises(psycopg.errors.LockNotAvailable),
        ):
            other.execute("SET lock_timeout = '100ms'")
            other.execute("ALTER TABLE events DETACH PARTITION events_p0")


PREPARED = {
    "behind": "SELECT * FROM events WHERE session_id = $1 AND seq > 5 ORDER BY seq",
    "by id": "SELECT * FROM events WHERE session_id = $1 AND event_id = 'x'",
    "waiting": "SELECT * FROM events WHERE session_id = $1 AND queued = true ORDER BY seq",
    "newest": "SELECT * FROM events WHERE session_id = $1 ORDER BY seq DESC LIMIT 1",
    "clear": "DELETE FROM events WHERE session_id = $1 AND seq < 5",
}


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_every_plan_looks_into_one_partition(stage: Stage, url: str, mode: str) -> None:
    ids = await spread(stage)
    with psycopg.connect(url, autocommit=True) as there:
        there.execute(f"SET plan_cache_mode = {mode}")
        there.execute("SET enable_seqscan = off")  # the tables are small
        for n, sql in enumerate(PREPARED.values()):
            there.execute(f"PREPARE p{n} (varchar) AS {sql}")
            lines = there.execute(
                f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE p{n} ('{ids[1]}')"
            ).fetchall()
            plan = "\n".join(line for (line,) in lines)
            scans = " ".join(line for line in plan.splitlines() if "Scan" in line)
            assert set(re.findall(r" on (events_p\d+)", scans)) == {"events_p20260201"}, plan
            assert "Seq Scan" not in plan, plan
