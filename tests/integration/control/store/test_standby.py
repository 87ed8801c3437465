"""Lists from a real streaming replica, which is stopped, killed, frozen, promoted and mistaken."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import httpx2
import pytest
from anthropic import Anthropic
from sqlalchemy import func, insert, select, text
from structlog.testing import capture_logs

from intramuros.control.store import standby as module
from intramuros.control.store import standing
from intramuros.control.store.arrival import arriving
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.tables import workspaces as W
from intramuros.kernel.errors import NotFound, TimedOut
from tests import postgres
from tests.postgres import Cluster
from tests.waiting import until
from tests.wire import site
from tests.wire.host import running

pytestmark = [pytest.mark.anyio, pytest.mark.sqlite, pytest.mark.timeout(240)]

# Long enough for a machine that is busy with something else.
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def follower(cluster: Cluster) -> Iterator[Cluster]:
    """A replica of the cluster."""
    cluster.database("/first")  # what the template of all others needs is there to be copied
    with postgres.following(cluster, {"max_standby_streaming_delay": "0"}) as started:
        yield started


@pytest.fixture
def replica(follower: Cluster) -> Iterator[Cluster]:
    """The same, as it should be before and after a test."""
    yield follower
    if follower.process is None:
        follower.start()
    follower.run("SELECT pg_wal_replay_resume()")


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    return f"/one/{request.node.nodeid}"


def replayed(cluster: Cluster, replica: Cluster) -> None:
    """Wait until a replica has all that there is."""
    at = cluster.run("SELECT pg_current_wal_flush_lsn()::text")[0][0]
    look = f"SELECT true WHERE pg_last_wal_replay_lsn() >= '{at}'"
    site.until(lambda: replica.run(look) or None)


class Rig:
    """What a server has: the database, with a replica of it."""

    def __init__(self, cluster: Cluster, replica: Cluster, url: str, name: str) -> None:
        self.cluster = cluster
        self.replica = replica
        self.url = url
        self.name = name
        self.replica_url = replica.url(name)
        replayed(cluster, replica)
        self.db = Database.open(url, replicas=[self.replica_url])
        assert self.db.standbys is not None
        self.standby = self.db.standbys.all[0]

    def count(self, outcome: str) -> int:
        return self.standby.outcomes[outcome]

    async def add(self, name: str) -> None:
        await self.db.write(add(name), ())

    async def names(self) -> list[str]:
        """Ask for a list, as a request does: who asks is looked up first."""
        with arriving():
            await self.db.read(lambda tx: tx.scalar(text("SELECT 1")))
            return await self.db.page(names)

    async def pause_and_go_on(self) -> None:
        """Pause replay until a list was read elsewhere for it, and go on until one is read here."""
        run = anyio.to_thread.run_sync
        await run(self.replica.run, "SELECT pg_wal_replay_pause()")
        behind = self.count(standing.BEHIND)
        await until(lambda: self.count(standing.BEHIND) > behind)
        await run(self.replica.run, "SELECT pg_wal_replay_resume()")
        served = self.count(standing.SERVED)
        await until(lambda: self.count(standing.SERVED) > served)

    async def usable(self) -> None:
        """Wait until lists are read on the replica."""
        await until(self.standby.ready)
        assert await self.db.page(on_replica)


def add(name: str) -> Callable[[Tx], object]:
    return lambda tx: tx.execute(insert(W).values(id=name, name=name, created_us=0))


def names(tx: Tx) -> list[str]:
    return list(tx.execute(select(W.c.id).order_by(W.c.id)).scalars())


def on_replica(tx: Tx) -> bool:
    return bool(tx.scalar(text("SELECT pg_is_in_recovery()")))


@pytest.fixture
def rig(cluster: Cluster, replica: Cluster, url: str, key: str) -> Iterator[Rig]:
    made = Rig(cluster, replica, url, cluster.used[key])
    yield made
    made.db.close()


async def test_lists_are_read_on_the_replica_and_everything_else_is_not(rig: Rig) -> None:
    await rig.usable()
    assert await rig.db.page(on_replica)
    assert await rig.db.page(on_replica, 20)
    assert not await rig.db.read(on_replica)
    assert not await rig.db.glance(on_replica)
    assert not await rig.db.write(on_replica)


async def test_a_list_without_a_request_asks_where_the_primary_stands(rig: Rig) -> None:
    await rig.usable()
    for n in range(20):
        await rig.add(f"w{n:02}")
        assert len(await rig.db.page(names)) == n + 1
    assert rig.count(standing.SERVED) > 1


async def test_a_request_that_wrote_finds_what_it_wrote(rig: Rig) -> None:
    await rig.usable()
    with arriving() as request:
        await rig.db.read(lambda tx: tx.scalar(text("SELECT 1")))
        assert request.position is not None
        await rig.add("mine")
        assert request.position is None
        assert await rig.db.page(names) == ["mine"]


async def test_nothing_that_was_acknowledged_is_missing_while_the_replica_stops_and_goes(
    rig: Rig,
) -> None:
    """Two servers write, a third one's clients list, and replay is paused again and again."""
    await rig.usable()
    writers = [Database.open(rig.url) for _ in range(2)]
    acknowledged: set[str] = set()
    over = anyio.Event()

    async def write(which: int) -> None:
        while not over.is_set():
            name = f"w{which}-{len(acknowledged):06}"
            await writers[which].write(add(name), ())
            acknowledged.add(name)

    async def read() -> None:
        while not over.is_set():
            before = set(acknowledged)
            found = set(await rig.names())
            assert before <= found, before - found

    with ExitStack() as stack:
        for one in writers:
            stack.callback(one.close)
        async with anyio.create_task_group() as group:
            for n in range(6):
                group.start_soon(*((write, n) if n < 2 else (read,)))
            for _ in range(5):
                await rig.pause_and_go_on()
            over.set()
    assert set(await rig.names()) == acknowledged
    assert len(acknowledged) > 5


async def test_one_that_is_behind_is_said_to_be_so_once(rig: Rig) -> None:
    await rig.usable()
    rig.replica.run("SELECT pg_wal_replay_pause()")
    with capture_logs() as logs:
        for n in range(5):
            await rig.add(f"w{n}")
            assert len(await rig.names()) == n + 1
            rig.standby._behind_s = 0.0  # the next list looks again, instead of in 0.2 s
    assert rig.count(standing.BEHIND) == 5
    assert [one["event"] for one in logs] == ["replica_behind"]
    rig.replica.run("SELECT pg_wal_replay_resume()")
    await rig.usable()


async def test_lists_do_not_wait_for_one_that_was_behind_a_moment_ago(rig: Rig) -> None:
    await rig.usable()
    rig.replica.run("SELECT pg_wal_replay_pause()")
    await rig.add("w")
    await rig.names()
    resting = rig.count(standing.RESTING)
    rig.standby._behind_s = float("inf")
    assert await rig.names() == ["w"]
    assert rig.count(standing.BEHIND) == 1
    assert rig.count(standing.RESTING) == resting + 1


async def test_killed_it_is_missed_by_nobody_and_used_again_when_it_is_back(rig: Rig) -> None:
    await rig.usable()
    await rig.add("before")
    rig.replica.kill()
    with capture_logs() as logs:
        for n in range(10):
            await rig.add(f"w{n}")
            assert len(await rig.names()) == n + 2
    told = [one for one in logs if one["event"].startswith("replica")]
    assert [one["event"] for one in told] == ["replica_away"]
    assert told[0]["why"] == standing.AWAY
    assert not rig.standby.usable
    with capture_logs() as logs:
        rig.replica.start()
        await rig.usable()
    assert [one["event"] for one in logs if one["event"] != "replica_behind"] == ["replica_serves"]
    assert len(await rig.names()) == 11


async def test_lists_under_way_when_it_is_killed_are_read_on_the_primary(rig: Rig) -> None:
    await rig.usable()
    await rig.add("w")
    inside, go = threading.Event(), threading.Event()

    def slowly(tx: Tx) -> list[str]:
        if on_replica(tx):
            inside.set()
            assert go.wait(PATIENCE_S)
        return names(tx)

    found: list[str] = []

    async def read() -> None:
        found.extend(await rig.db.page(slowly))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.to_thread.run_sync(inside.wait, PATIENCE_S)
        rig.replica.kill()
        go.set()
    assert found == ["w"]


async def test_one_that_stands_still_is_left_alone_and_taken_back(rig: Rig) -> None:
    await rig.usable()
    await rig.add("w")
    rig.replica.freeze()
    try:
        assert await rig.names() == ["w"]
        assert rig.count(standing.SLOW) == 1
        assert not rig.standby.usable
        resting = rig.count(standing.RESTING)
        assert await rig.names() == ["w"]
        assert rig.count(standing.RESTING) == resting + 1
        # What tries it hangs too, and is taken back by those who come later.
        await until(lambda: rig.standby.tend() or rig.standby._breaker.failures >= 2)
    finally:
        rig.replica.freeze(thaw=True)
    await rig.usable()


async def test_a_list_that_conflicts_with_recovery_is_read_on_the_primary(rig: Rig) -> None:
    await rig.usable()
    for n in range(200):
        await rig.add(f"w{n:03}")
    inside, go = threading.Event(), threading.Event()

    def in_the_way(tx: Tx) -> int:
        found = len(names(tx))
        if on_replica(tx):
            inside.set()
            assert go.wait(PATIENCE_S)
            return found + len(names(tx))
        return found

    found: list[int] = []

    async def read() -> None:
        found.append(await rig.db.page(in_the_way))

    name = rig.name
    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.to_thread.run_sync(inside.wait, PATIENCE_S)
        await rig.db.write(lambda tx: tx.execute(text("DELETE FROM workspaces")))
        rig.cluster.run("VACUUM workspaces", name)
        # It replays that only by doing away with who reads.
        await anyio.to_thread.run_sync(replayed, rig.cluster, rig.replica)
        go.set()
    assert found == [0]
    assert rig.count(standing.CONFLICT) + rig.count(standing.AWAY) == 1
    await rig.usable()


async def test_what_a_list_itself_raises_is_told_and_no_fault_of_the_replica(rig: Rig) -> None:
    await rig.usable()

    def refuse(_: Tx) -> None:
        raise NotFound("no such session")

    with pytest.raises(NotFound, match="no such session"):
        await rig.db.page(refuse)
    assert rig.standby.usable


async def test_text_that_no_database_holds_finds_nothing_there_either(rig: Rig) -> None:
    await rig.usable()
    await rig.add("w")
    query = select(func.count()).select_from(W).where(W.c.id == "\0")
    assert await rig.db.page(lambda tx: tx.scalar(query)) == 0
    assert rig.standby.usable


async def test_statements_that_take_too_long_are_cut_off_on_both(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = Database.open(rig.url, statement_s=0.2, replicas=[rig.replica_url])
    try:
        assert db.standbys is not None
        there = db.standbys.all[0]
        await until(there.ready)
        with pytest.raises(TimedOut):
            await db.page(lambda tx: tx.execute(text("SELECT pg_sleep(60)")))
        assert there.outcomes[standing.SLOW] == 1
    finally:
        db.close()


async def test_a_list_that_takes_too_long_there_may_take_longer_on_the_primary(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_S", 0.2)
    db = Database.open(rig.url, statement_s=60, replicas=[rig.replica_url])
    try:
        assert db.standbys is not None
        there = db.standbys.all[0]
        await until(there.ready)

        def slow_there(tx: Tx) -> bool:
            away = on_replica(tx)
            tx.execute(text("SELECT pg_sleep(60)") if away else text("SELECT 1"))
            return away

        assert not await db.page(slow_there)
        assert there.outcomes[standing.SLOW] == 1
    finally:
        db.close()


async def test_a_role_that_may_only_read_is_enough_and_one_that_may_not_is_told(
    url: str, cluster: Cluster, replica: Cluster, key: str
) -> None:
    name = cluster.used[key]
    cluster.run("CREATE ROLE reader LOGIN")
    replayed(cluster, replica)
    reading = replica.url(name).replace(f"//{replica.user}@", "//reader@")
    try:
        with capture_logs() as logs:
            db = Database.open(url, replicas=[reading])
            try:
                assert db.standbys is not None
                there = db.standbys.all[0]
                await until(lambda: bool(logs))
                assert [one["why"] for one in logs] == [standing.REFUSED]
                assert not await db.page(on_replica)
            finally:
                db.close()
        cluster.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", name)
        replayed(cluster, replica)
        db = Database.open(url, replicas=[reading])
        try:
            assert db.standbys is not None
            there = db.standbys.all[0]

            # What was granted has to be replayed before it is let in.
            await until(there.ready)
            assert await db.page(on_replica)
        finally:
            db.close()
    finally:
        cluster.run("DROP OWNED BY reader", name)
        cluster.run("DROP ROLE reader")


async def test_a_primary_is_no_replica(url: str) -> None:
    with capture_logs() as logs:
        db = Database.open(url, replicas=[url])
        try:
            await until(lambda: bool(logs))
            assert [one["why"] for one in logs] == [standing.PROMOTED]
            assert await db.page(names) == []
        finally:
            db.close()


async def test_a_server_starts_while_its_replica_is_away(rig: Rig, replica: Cluster) -> None:
    replica.kill()
    db = Database.open(rig.url, replicas=[rig.replica_url])
    try:
        assert await db.page(names) == []
    finally:
        db.close()


def test_clients_find_at_one_server_what_another_one_told_them(
    rig: Rig, tmp_path: Path, cluster: Cluster
) -> None:
    shared = {
        "database_url": rig.url,
        "bootstrap_api_key": "sk-test-of-replicas",
    }
    with ExitStack() as stack:
        one = stack.enter_context(running(tmp_path / "one", **shared))
        (tmp_path / "two").mkdir()
        shutil.copy(tmp_path / "one/master-key", tmp_path / "two/master-key")
        two = stack.enter_context(
            running(tmp_path / "two", **shared, database_replica=[rig.replica_url])
        )
        here, there = (
            stack.enter_context(
                Anthropic(base_url=server.base_url, api_key=one.api_key, max_retries=0)
            )
            for server in (one, two)
        )

        def serving() -> bool | None:
            told = httpx2.get(f"{two.base_url}/readyz").json()
            return told == {"status": "ready", "replicas": {"serving": 1, "of": 1}} or None

        site.until(serving)
        made: list[str] = []
        for n in range(30):
            if n == 10:
                rig.replica.run("SELECT pg_wal_replay_pause()")
            if n == 20:
                rig.replica.run("SELECT pg_wal_replay_resume()")
            made.append(here.beta.agents.create(name=f"a{n}", model="scripted/x").id)
            assert [one.id for one in there.beta.agents.list(limit=100)] == made[::-1]
        assert cluster.run("SELECT state FROM pg_stat_replication WHERE state = 'streaming'")
        log = two.log
    assert log.count("replica_serves") == 1
    assert log.count("replica_behind") == 1
    assert "replica_away" not in log
    assert "request_failed" not in log


async def test_after_a_failover_only_those_that_followed_are_read(
    cluster: Cluster, rig: Rig
) -> None:
    """A replica becomes the primary; another one still follows the old one, and is further on."""
    name = rig.name
    await rig.usable()
    with postgres.following(cluster) as successor:
        successor.run("SELECT pg_promote(true, 60)")
        # On a history that the new primary knows nothing of.
        for n in range(50):
            await rig.add(f"lost{n:02}")
        await rig.usable()
        with capture_logs() as logs:
            db = Database.open(successor.url(name), replicas=[rig.replica_url])
            try:
                assert db.standbys is not None
                there = db.standbys.all[0]
                await until(lambda: there.usable)
                await db.write(add("new"))
                assert await db.page(names) == ["new"]
                assert there.outcomes[standing.FORKED] == 1
                assert not there.usable
            finally:
                db.close()
        assert [one["why"] for one in logs if one["event"] == "replica_away"] == ["forked"]


async def test_one_that_is_promoted_is_left_alone(cluster: Cluster, url: str, key: str) -> None:
    with postgres.following(cluster) as other:
        rig = Rig(cluster, other, url, cluster.used[key])
        try:
            await rig.usable()
            other.run("SELECT pg_promote(true, 60)")
            other.run("INSERT INTO workspaces VALUES ('theirs', '', 0)", cluster.used[key])
            assert await rig.names() == []
            assert not rig.standby.usable
            assert rig.count(standing.PROMOTED) == 1
        finally:
            rig.db.close()
