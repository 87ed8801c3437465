"""Behind PgBouncer, which hands out connections by transaction: nothing leaks, nothing is lost."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import httpx2
import pytest
from anthropic import Anthropic
from sqlalchemy import func, insert, select, text, update
from structlog.testing import capture_logs

from intramuros.control.identity import audit
from intramuros.control.store import snapshots, whole
from intramuros.control.store.correspondence import Correspondence
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.notify import Hub
from intramuros.control.store.replicas import IDENTITY, Relay
from intramuros.control.store.tables import workspaces as W
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import SystemClock
from intramuros.protocol.audit import verify
from tests import pooler, waiting
from tests.integration.control.store.test_shared_limits import LIMIT, Caller, use_half
from tests.postgres import Cluster
from tests.wire.host import both, running
from tests.wire.site import BETA, MESSAGE, Site

pytestmark = [pytest.mark.anyio, pytest.mark.sqlite]

SCRIPTS = Path(__file__).parents[3] / "wire/scripts"
LIMITS = {
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "5s",
    "synchronous_commit": "on",
}


@pytest.fixture(scope="module")
def pooled(cluster: Cluster) -> Iterator[Path]:
    if pooler.binary() is None:
        pytest.skip("PgBouncer is not installed: nothing was tested behind it")
    with pooler.pooling(cluster) as directory:
        yield directory


@pytest.fixture
def url(pooled: Path, cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    key = f"/pooled/{request.node.nodeid}"
    cluster.database(key)
    where = f"host={pooled}&port=6432&prepare_threshold=none"
    yield f"postgresql://{cluster.user}@/{cluster.used[key]}?{where}"
    cluster.drop(key)


def shown(tx: Tx) -> dict[str, str]:
    return {name: str(tx.scalar(text(f"SHOW {name}"))) for name in LIMITS}


async def test_limits_hold_in_every_transaction_and_leak_into_none(url: str, pooled: Path) -> None:
    with ExitStack() as stack:
        one, two = Database.open(url), Database.open(url)
        stack.callback(one.close)
        stack.callback(two.close)
        for _ in range(20):
            for db in (one, two):
                assert await db.write(shown) == LIMITS
                assert await db.write(shown, ("a",)) == LIMITS
                assert await db.read(shown) == LIMITS
        with one.engine.connect() as connection:
            here = connection.connection.dbapi_connection
            assert here is not None
            for name in LIMITS:
                outside = here.execute(f"SHOW {name}").fetchone()[0]
                assert outside == ("on" if name == "synchronous_commit" else "0"), name


async def test_writers_exclude_each_other_as_ever(url: str) -> None:
    clock = SystemClock()

    def raise_by_one(tx: Tx) -> None:
        now = tx.scalar(select(W.c.created_us).where(W.c.id == "w"))
        audit.record(tx, clock, "test", workspace_id=None, fields={})
        tx.execute(update(W).where(W.c.id == "w").values(created_us=now + 1))

    with ExitStack() as stack:
        both = [Database.open(url) for _ in range(2)]
        for db in both:
            stack.callback(db.close)
        await both[0].write(lambda tx: tx.execute(insert(W).values(id="w", name="", created_us=0)))

        async def write(db: Database, keys: tuple[str] | None) -> None:
            for _ in range(10):
                await db.write(raise_by_one, keys)

        # More at once than the pooler has connections.
        async with anyio.create_task_group() as group:
            for db in both * 2:
                group.start_soon(write, db, None)
                group.start_soon(write, db, ("w",))
        assert await both[1].read(lambda tx: tx.scalar(select(W.c.created_us))) == 80
        lines = await both[0].read(lambda tx: list(audit.read_lines(tx)))
        assert verify(lines).seq == 80


def test_one_state_is_copied(url: str, tmp_path: Path) -> None:
    db = Database.open(url)
    try:
        anyio.run(db.write, lambda tx: tx.execute(insert(W).values(id="w", name="", created_us=0)))
        snapshots.take(db, tmp_path / "copy", lambda _: None)
    finally:
        db.close()
    with snapshots.frozen(tmp_path / "copy") as connection:
        assert whole.counts(connection)["workspaces"] == 1


@pytest.mark.timeout(240)
def test_a_server_serves(url: str, tmp_path: Path) -> None:
    with (
        running(tmp_path / "data", model_scripts=str(SCRIPTS), database_url=url) as server,
        Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as api,
        Site(server, api) as site,
    ):
        made = [site.session(initial_events=[MESSAGE]) for _ in range(5)]
        for session in made:
            site.wait(session.id, "session.status_idle")
        assert len(list(api.beta.sessions.list())) == 5
        log = server.log
    assert "error" not in log
    assert "replicas_unreachable" not in log
    # Wake-ups would go to whoever has the connection next: everybody looks for themselves.
    assert log.count("replicas_behind_pooler") == 2
    db = Database.open(url)
    count = anyio.run(db.read, lambda tx: tx.scalar(select(func.count()).select_from(W)))
    db.close()
    assert count == 1


@pytest.fixture
def direct(url: str, cluster: Cluster, request: pytest.FixtureRequest) -> str:
    """The same database, past the pooler."""
    return cluster.url(cluster.used[f"/pooled/{request.node.nodeid}"])


@pytest.mark.timeout(240)
def test_servers_keep_one_limit_past_the_pooler(url: str, direct: str, tmp_path: Path) -> None:
    shared = {
        "database_url": url,
        "database_direct_url": direct,
        "bootstrap_api_key": "sk-test-of-limits",
        "creates_per_minute": LIMIT,
    }
    with both(tmp_path, **shared) as (one, two):
        headers = {"x-api-key": one.api_key, **BETA}
        with httpx2.Client(headers=headers, timeout=60) as client:
            use_half(Caller(one, client), Caller(two, client))
        assert "replicas_" not in one.log + two.log


async def test_hints_go_past_the_pooler(url: str, direct: str) -> None:
    db = Database.open(url)
    hubs, stop = (Hub(), Hub()), Stop()
    relays = [relay_of(direct, hub, db) for hub in hubs]
    try:
        async with anyio.create_task_group() as group:
            for relay in relays:
                group.start_soon(relay.run, stop)
            with anyio.fail_after(60):
                for relay in relays:
                    await relay.listening.wait()
            with hubs[1].subscribe("a") as other:
                hubs[0].hint("a")
                assert await other.wait(60)
            stop.request()
    finally:
        db.close()


async def test_nobody_listens_at_another_database(url: str, cluster: Cluster) -> None:
    db = Database.open(url)
    stop = Stop()
    relay = relay_of(cluster.url("postgres"), Hub(), db)
    try:
        with capture_logs() as logs:
            async with anyio.create_task_group() as group:
                group.start_soon(relay.run, stop)
                await waiting.until(lambda: len(logs) >= 2)
                stop.request()
    finally:
        db.close()
    assert {one["event"] for one in logs} == {"replicas_elsewhere"}
    assert not relay.listening.is_set()


def relay_of(direct: str, hub: Hub, db: Database) -> Relay:
    post = Correspondence(b"s" * 32, secrets.token_hex(16), SystemClock())

    async def home() -> str:
        return str(await db.read(lambda tx: tx.scalar(text(IDENTITY))))

    return Relay(direct, hub, post, home=home)
