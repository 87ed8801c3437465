"""Writers, readers and claims of several processes on one PostgreSQL."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import anyio
import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs

from intramuros.control.identity import audit
from intramuros.control.identity.audit import read_lines
from intramuros.control.store import leases, postgres, postgres_begin
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.tables import leases as queue
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import InvalidRequest, OperatorError, TimedOut, Unavailable
from intramuros.kernel.timing import SystemClock
from intramuros.protocol.audit import verify
from tests import postgres as postgres_server
from tests.postgres import Cluster

pytestmark = pytest.mark.anyio

W = workspaces


@pytest.fixture
def two(url: str) -> Iterator[tuple[Database, Database]]:
    """What two server processes have."""
    with ExitStack() as stack:
        made = Database.open(url), Database.open(url)
        for db in made:
            stack.callback(db.close)
        yield made


def add(name: str, count: int = 0):
    return lambda tx: tx.execute(insert(W).values(id=name, name=name, created_us=count)) and name


def count_of(name: str):
    return lambda tx: tx.scalar(select(W.c.created_us).where(W.c.id == name))


def raise_by_one(name: str):
    """Read, and write what follows from it, as code that was written for one writer does."""

    def work(tx: Tx) -> None:
        now = tx.scalar(select(W.c.created_us).where(W.c.id == name))
        tx.execute(update(W).where(W.c.id == name).values(created_us=now + 1))

    return work


@pytest.mark.parametrize("keys", [None, ("w",)])
async def test_nothing_that_was_read_has_changed_when_it_is_written(
    two: tuple[Database, Database], keys: tuple[str] | None
) -> None:
    await two[0].write(add("w"))

    async def write(db: Database) -> None:
        for _ in range(20):
            await db.write(raise_by_one("w"), keys)

    async with anyio.create_task_group() as group:
        for db in two * 4:
            group.start_soon(write, db)
    assert await two[1].read(count_of("w")) == 160


async def test_keys_let_others_pass_and_keep_their_own_out(
    two: tuple[Database, Database],
) -> None:
    inside, go = threading.Event(), threading.Event()
    done: list[str] = []

    def hold(_: Tx) -> None:
        inside.set()
        assert go.wait(60)
        done.append("held")

    async def note(db: Database, name: str, keys: tuple[str, ...] | None) -> None:
        await db.write(lambda tx: done.append(name), keys)

    async with anyio.create_task_group() as group:
        group.start_soon(two[0].write, hold, ("a", "b"))
        await anyio.to_thread.run_sync(inside.wait, 10)
        # Another key passes, in this process and in the other.
        await note(two[0], "c", ("c",))
        await note(two[1], "d", ("d",))
        group.start_soon(note, two[1], "b", ("b", "x"))
        group.start_soon(note, two[1], "all", None)
        await _until_waiting(two[0], 2)
        assert done == ["c", "d"]
        go.set()
    assert done[:3] == ["c", "d", "held"]
    assert set(done[3:]) == {"b", "all"}


async def _until_waiting(db: Database, number: int) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with anyio.fail_after(60):
        while await db.read(lambda tx: tx.scalar(waiting)) < number:  # noqa: ASYNC110  the database tells nobody
            await anyio.sleep(0.01)


async def test_the_audit_chain_of_many_writers_is_one_line(two: tuple[Database, Database]) -> None:
    clock = SystemClock()

    async def act(db: Database, who: int) -> None:
        for number in range(15):

            def work(tx: Tx, number: int = number) -> None:
                audit.record(tx, clock, "test.act", workspace_id=None, fields={"n": number})
                if number % 5 == 4:
                    raise LookupError

            keys = None if who % 3 == 0 else (f"key {who}",)
            try:
                await db.write(work, keys)
            except LookupError:
                continue

    async with anyio.create_task_group() as group:
        for who in range(12):
            group.start_soon(act, two[who % 2], who)
    head = verify(await two[0].read(lambda tx: list(read_lines(tx))))
    assert head.seq == 12 * 12


async def test_each_turn_is_claimed_once(two: tuple[Database, Database]) -> None:
    now_us = 1_000

    def offer(tx: Tx) -> None:
        for number in range(60):
            leases.offer(tx, leases.TURNS, f"sesn_{number}", now_us)

    await two[0].write(offer)
    claimed: list[str] = []

    async def claim(db: Database, holder: str) -> None:
        while True:
            lease = await db.write(
                lambda tx: leases.claim(tx, leases.TURNS, holder, now_us, 10**9), ()
            )
            if lease is None:
                return
            claimed.append(lease.key)
            assert lease.epoch == 1

    async with anyio.create_task_group() as group:
        for number, db in enumerate(two * 3):
            group.start_soon(claim, db, f"holder {number}")
    assert len(claimed) == len(set(claimed)) == 60


async def test_a_row_that_somebody_is_claiming_is_passed_over(
    two: tuple[Database, Database],
) -> None:
    inside, go = threading.Event(), threading.Event()

    def offer(tx: Tx) -> None:
        leases.offer(tx, "q", "first", 1)
        leases.offer(tx, "q", "second", 2)

    def slowly(tx: Tx) -> str:
        lease = leases.claim(tx, "q", "slow", 5, 10)
        inside.set()
        assert go.wait(60)
        assert lease is not None
        return lease.key

    await two[0].write(offer)
    found: list[str] = []

    async def claim_slowly() -> None:
        found.append(await two[0].write(slowly, ()))

    async with anyio.create_task_group() as group:
        group.start_soon(claim_slowly)
        await anyio.to_thread.run_sync(inside.wait, 10)
        lease = await two[1].write(lambda tx: leases.claim(tx, "q", "quick", 5, 10), ())
        assert lease is not None
        assert lease.key == "second"
        assert await two[1].write(lambda tx: leases.claim(tx, "q", "quick", 5, 10), ()) is None
        go.set()
    assert found == ["first"]


async def test_two_that_wait_for_each_other_both_get_through(
    two: tuple[Database, Database],
) -> None:
    for name in ("a", "b"):
        await two[0].write(add(name))
    meeting = threading.Barrier(2, timeout=60)
    tries: list[str] = []

    raised = update(W).values(created_us=W.c.created_us + 1)

    def cross(first: str, second: str):
        def work(tx: Tx) -> None:
            tries.append(first)
            tx.execute(raised.where(W.c.id == first))
            if tries.count(first) == 1:
                meeting.wait()
            tx.execute(raised.where(W.c.id == second))

        return work

    async with anyio.create_task_group() as group:
        group.start_soon(two[0].write, cross("a", "b"), ("x",))
        group.start_soon(two[1].write, cross("b", "a"), ("y",))
    assert len(tries) >= 3  # at least one of them met the other, and began again
    for name in ("a", "b"):
        assert await two[0].read(count_of(name)) == 2


async def test_jobs_that_share_a_transaction_fail_apart(two: tuple[Database, Database]) -> None:
    inside, go = threading.Event(), threading.Event()
    outcomes: dict[str, object] = {}

    def hold(_: Tx) -> None:
        inside.set()
        assert go.wait(60)

    async def attempt(name: str) -> None:
        try:
            outcomes[name] = await two[0].write(add(name[0]))
        except IntegrityError as error:
            outcomes[name] = type(error).__name__

    async with anyio.create_task_group() as group:
        group.start_soon(two[0].write, hold)
        await anyio.to_thread.run_sync(inside.wait, 10)
        for name in ("a1", "a2", "b1"):
            group.start_soon(attempt, name)
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert outcomes == {"a1": "a", "a2": "IntegrityError", "b1": "b"}


async def test_a_lost_connection_is_replaced_and_the_work_done_once(
    two: tuple[Database, Database], cluster: Cluster
) -> None:
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ="
        " 'intramuros' AND datname = '%s'"
    )
    name = str(two[0].engine.url.database)
    await two[0].write(add("w"))
    await two[0].read(count_of("w"))
    await anyio.to_thread.run_sync(cluster.run, kill % name)
    # Idle connections were lost.
    await two[0].write(raise_by_one("w"))
    await two[0].write(raise_by_one("w"), ("w",))
    assert await two[0].read(count_of("w")) == 2
    cut = threading.Event()

    def lose(tx: Tx) -> None:
        raise_by_one("w")(tx)
        if not cut.is_set():
            cut.set()
            cluster.run(kill % name)
        raise_by_one("w")(tx)

    for keys in (None, ("w",)):
        cut.clear()
        await two[0].write(lose, keys)
    assert await two[1].read(count_of("w")) == 6


async def test_a_process_that_stands_still_holds_others_up_for_a_while_only(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_begin, "IDLE_TIMEOUT_MS", 300)
    still, other = Database.open(url), Database.open(url)
    inside, go = threading.Event(), threading.Event()

    def stand(tx: Tx) -> None:
        tx.execute(insert(W).values(id="still", name="s", created_us=1))
        inside.set()
        assert go.wait(60)

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(still.write, stand)
            await anyio.to_thread.run_sync(inside.wait, 10)
            assert await other.write(add("other")) == "other"
            # It had not been heard of since: what it did is undone, and done again when it wakes.
            assert await other.read(count_of("still")) is None
            go.set()
        assert await other.read(count_of("still")) == 1
    finally:
        still.close()
        other.close()


@pytest.mark.parametrize("keys", [None, ("k",)])
async def test_a_lock_that_is_held_long_is_asked_for_again(
    url: str, monkeypatch: pytest.MonkeyPatch, keys: tuple[str] | None
) -> None:
    monkeypatch.setattr(postgres_begin, "LOCK_TIMEOUT_MS", 50)
    slow, other = Database.open(url), Database.open(url)
    inside, go = threading.Event(), threading.Event()

    def hold(_: Tx) -> None:
        inside.set()
        assert go.wait(60)

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(slow.write, hold, keys)
            await anyio.to_thread.run_sync(inside.wait, 10)
            with pytest.raises(Unavailable, match="too busy"):
                await other.write(add("w"), keys)
            go.set()
        # The connection that gave up is as good as new.
        assert await other.write(add("w"), keys) == "w"
    finally:
        slow.close()
        other.close()


def _sleep(tx: Tx) -> None:
    tx.execute(insert(W).values(id="cut", name="hunter2", created_us=1))
    tx.execute(text("SELECT pg_sleep(:seconds), :name"), {"seconds": 60, "name": "hunter2"})


@pytest.mark.parametrize("keys", [None, ("k",)])
async def test_a_statement_that_takes_too_long_is_cut_off_and_told_once(
    url: str, keys: tuple[str] | None
) -> None:
    db = Database.open(url, statement_s=0.2)
    failed: list[Exception] = []

    async def cut_off() -> None:
        with pytest.raises(TimedOut, match="took too long; nothing was changed") as raised:
            await db.write(_sleep, keys)
        failed.append(raised.value)

    try:
        with capture_logs() as logs:
            async with anyio.create_task_group() as group:
                group.start_soon(cut_off)
                # What waits with it for one commit is done.
                for name in "abc":
                    group.start_soon(db.write, add(name), keys)
            with pytest.raises(TimedOut):
                await db.read(lambda tx: tx.execute(text("SELECT pg_sleep(60)")))
        assert len(failed) == 1
        assert [await db.read(count_of(name)) for name in ("a", "b", "c", "cut")] == [0, 0, 0, None]
    finally:
        db.close()
    told = [entry for entry in logs if entry["event"] == "statement_cut_off"]
    assert ["pg_sleep" in entry["sql"] for entry in told] == [True, True]
    assert "hunter2" not in str(logs)
    assert "60" not in told[0]["sql"]


async def test_without_a_limit_a_statement_takes_as_long_as_it_takes(url: str) -> None:
    db = Database.open(url, statement_s=0)
    try:
        limits = text("SELECT current_setting('statement_timeout')")
        assert await db.write(lambda tx: tx.scalar(limits)) == "0"
        assert await db.read(lambda tx: tx.scalar(limits)) == "0"
    finally:
        db.close()


@pytest.mark.parametrize("seconds", [-1.0, 0.01, 1e9, float("nan")])
def test_limits_that_make_no_sense_are_refused(url: str, seconds: float) -> None:
    with pytest.raises(OperatorError, match="a statement cannot be given"):
        Database.open(url, statement_s=seconds)


async def test_reads_have_one_snapshot_and_cannot_write(two: tuple[Database, Database]) -> None:
    inside, go = threading.Event(), threading.Event()

    def twice(tx: Tx) -> list[int]:
        seen = [tx.scalar(select(func.count()).select_from(W))]
        inside.set()
        assert go.wait(60)
        return [*seen, tx.scalar(select(func.count()).select_from(W))]

    found: list[list[int]] = []

    async def read() -> None:
        found.append(await two[0].read(twice))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.to_thread.run_sync(inside.wait, 10)
        await two[1].write(add("w"))
        go.set()
    assert found == [[0, 0]]
    with pytest.raises(Exception, match="read-only"):
        await two[0].read(add("x"))


async def test_text_is_sorted_by_its_bytes_and_sums_are_whole(
    two: tuple[Database, Database],
) -> None:
    names = ["a", "B", "_", "Ä", "b", "A", "ä", "aa", "a_"]
    for number, name in enumerate(names):
        await two[0].write(add(name, number))
    ordered = select(W.c.id).order_by(W.c.id)
    assert await two[0].read(lambda tx: list(tx.execute(ordered).scalars())) == sorted(names)
    total = await two[0].read(lambda tx: tx.scalar(select(func.sum(W.c.created_us))))
    assert (total, type(total)) == (36, int)


async def test_any_json_comes_back_as_it_was(two: tuple[Database, Database]) -> None:
    strange = {"z": 1, "a": ["\0", "\ud800", 10**30, float("inf"), None, 1.0, "é"]}
    row = {"id": "l", "queue": "q", "key": "k", "state": "s", "epoch": 0}
    times = {"available_us": 2**62, "created_us": 1}
    await two[0].write(lambda tx: tx.execute(insert(queue).values(**row, **times, payload=strange)))
    found = await two[0].read(lambda tx: tx.execute(select(queue)).one())
    assert (found.payload, list(found.payload)) == (strange, ["z", "a"])
    assert found.available_us == 2**62


async def test_text_that_it_cannot_hold_is_refused_and_not_found(
    two: tuple[Database, Database],
) -> None:
    with pytest.raises(InvalidRequest, match=r"U\+0000"):
        await two[0].write(add("a\0b"))
    assert await two[0].read(count_of("a\0b")) is None
    assert await two[0].write(add("a")) == "a"


async def test_what_cannot_be_reached_is_one_line_without_the_password() -> None:
    with pytest.raises(OperatorError, match=r"cannot reach the database 127\.0\.0\.1/x") as refused:
        Database.open("postgresql://me:hunter2@127.0.0.1:9/x")
    assert "hunter2" not in repr(refused.value)
    with pytest.raises(OperatorError, match="cannot be read"):
        Database.open("postgresql:x")


async def test_every_reader_replaces_a_connection_that_was_lost(
    two: tuple[Database, Database], cluster: Cluster
) -> None:
    async def read_at_once() -> None:
        """Have every reader at work."""
        all_here = threading.Barrier(postgres.READERS, timeout=60)

        def look(tx: Tx) -> None:
            tx.scalar(text("SELECT 1"))
            all_here.wait()

        async with anyio.create_task_group() as group:
            for _ in range(postgres.READERS):
                group.start_soon(two[0].read, look)

    await read_at_once()
    name = str(two[0].engine.url.database)
    await anyio.to_thread.run_sync(
        cluster.run,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ="
        f" 'intramuros' AND datname = '{name}'",
    )
    await read_at_once()
    await read_at_once()


@pytest.mark.timeout(240)
async def test_a_server_that_goes_away_is_unavailable_until_it_is_back() -> None:
    with postgres_server.running() as cluster:
        db = Database.open(cluster.database("k"))
        try:
            await db.write(add("a"))
            await anyio.to_thread.run_sync(cluster.stop)
            for attempt in (db.write(add("b")), db.write(add("b"), ()), db.read(count_of("a"))):
                with pytest.raises(Unavailable):
                    await attempt
            await anyio.to_thread.run_sync(cluster.start)
            assert await db.write(add("c")) == "c"
            assert await db.write(add("d"), ()) == "d"
            assert await db.read(count_of("c")) == 0
        finally:
            db.close()
