"""Servers that are started before their PostgreSQL."""

import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
import psycopg
import pytest
from anthropic import Anthropic, InternalServerError
from sqlalchemy import Connection, make_url
from structlog.testing import capture_logs

from intramuros.control.store import migrate, postgres_begin
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.drivers import DatabaseAway
from intramuros.control.store.migrate import upgrade
from intramuros.control.store.patience import open_when_up
from intramuros.kernel.errors import OperatorError
from tests import waiting
from tests.postgres import Cluster
from tests.wire.host import log_file, running
from tests.wire.site import until

pytestmark = pytest.mark.anyio


@contextmanager
def refusing(code: str, message: str) -> Iterator[str]:
    """A PostgreSQL that lets nobody in, and says why; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer, peer.makefile("rb") as asked:
                    # No encryption, whichever is asked for; then the real beginning.
                    while (length := asked.read(4)) and len(length) == 4:
                        body = asked.read(struct.unpack("!I", length)[0] - 4)
                        if body[:4] not in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"):
                            break
                        peer.sendall(b"N")
                    fields = [f"SFATAL\0VFATAL\0C{code}\0M{message}\0", "\0"]
                    told = "".join(fields).encode()
                    peer.sendall(b"E" + struct.pack("!I", len(told) + 4) + told)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"postgresql://me:hunter2@127.0.0.1:{listener.getsockname()[1]}/x"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("code", "message", "passes"),
    [
        ("57P03", "the database system is starting up", True),
        ("57P03", "the database system is in recovery mode", True),
        ("57P03", "the database system is shutting down", True),
        ("53300", "sorry, too many clients already", True),
        ("57P03", "das Datenbanksystem startet", True),
        ("28P01", 'password authentication failed for user "me"', False),
        ("3D000", 'database "x" does not exist', False),
        ("28000", 'no pg_hba.conf entry for host "127.0.0.1"', False),
    ],
)
def test_what_passes_is_told_from_what_stays(code: str, message: str, passes: bool) -> None:
    with refusing(code, message) as url, pytest.raises(OperatorError) as refused:
        Database.open(url)
    assert message in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert isinstance(refused.value, DatabaseAway) == passes


async def test_nobody_waits_with_a_wrong_password() -> None:
    with (
        refusing("28P01", "password authentication failed") as url,
        anyio.fail_after(60),
        pytest.raises(OperatorError, match="authentication failed"),
    ):
        await open_when_up(url, 10_000.0, lambda _: None)


def test_a_url_that_cannot_be_read_stops_the_start(url: str) -> None:
    with pytest.raises(OperatorError, match="URL cannot be read"):
        Database.open(url, replicas=["postgresql://host:port/name"])


def test_sqlite_has_no_replicas(url: str) -> None:
    with pytest.raises(OperatorError, match="no replicas"):
        Database.open("sqlite:////nowhere/at/all.db", replicas=[url])


@pytest.mark.timeout(180)
def test_a_server_waits_for_a_database_that_recovers(cluster: Cluster, tmp_path: Path) -> None:
    url = cluster.bare("late")
    assert cluster.process is not None
    cluster.process.kill()  # it will have to recover
    cluster.process.wait()

    def started() -> bool | None:
        try:
            cluster.start()
        except RuntimeError:
            return None  # what the killed one had begun is not over yet
        return True

    def start_later() -> None:
        try:
            until(lambda: "database_awaited" in _log(tmp_path) or None, 60)
        finally:
            until(started, 60)

    thread = threading.Thread(target=start_later)
    thread.start()
    try:
        with (
            running(tmp_path, database_url=url, database_wait_s=90.0) as server,
            Anthropic(base_url=server.base_url, api_key=server.api_key) as client,
        ):
            assert client.beta.agents.create(name="a", model="scripted/x").name == "a"
    finally:
        thread.join()
        cluster.drop_bare("late")
    assert "database_awaited" in _log(tmp_path)


_SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE INSERT ON resources FOR EACH ROW EXECUTE FUNCTION slow()
"""


@pytest.mark.timeout(240)
def test_a_caller_of_a_statement_that_is_cut_off_gets_a_504_and_may_try_again(
    tmp_path: Path, cluster: Cluster
) -> None:
    url = cluster.bare("cut")
    name = str(make_url(url).database)
    try:
        with (
            running(tmp_path, database_url=url, database_statement_timeout_s=2.0) as server,
            Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as client,
        ):
            cluster.run(_SLOW, name)
            with pytest.raises(InternalServerError, match="took too long") as raised:
                client.beta.agents.create(name="hunter2", model="scripted/x")
            assert raised.value.status_code == 504
            assert raised.value.type == "timeout_error"
            # A reader that waits for a lock in vain is told too.
            with psycopg.connect(cluster.url(name)) as holder:
                holder.execute("LOCK TABLE resources IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(InternalServerError, match="too busy") as raised:
                    list(client.beta.agents.list())
                assert raised.value.status_code == 503
            cluster.run("DROP FUNCTION slow() CASCADE", name)
            assert list(client.beta.agents.list()) == []
            made = client.beta.agents.create(name="hunter2", model="scripted/x")
            assert [agent.id for agent in client.beta.agents.list()] == [made.id]
    finally:
        cluster.drop_bare("cut")
    assert _log(tmp_path).count("statement_cut_off") == 1
    assert "hunter2" not in _log(tmp_path)


async def test_a_start_waits_for_who_is_migrating(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_begin, "LOCK_TIMEOUT_MS", 50)
    monkeypatch.setattr(postgres_begin, "IDLE_TIMEOUT_MS", 120_000)
    other = Database.open(url)
    inside, go = threading.Event(), threading.Event()

    def migrate_for_long(_: Tx) -> None:
        inside.set()
        assert go.wait(60)

    async def let_go(logs: Sequence[Mapping[str, object]]) -> None:
        await waiting.until(lambda: any(e["event"] == "database_awaited" for e in logs))
        go.set()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(other.write, migrate_for_long)
            try:
                await anyio.to_thread.run_sync(inside.wait, 60)
                with pytest.raises(DatabaseAway, match="another server has the database"):
                    await open_when_up(url, 0.0, lambda db: upgrade(db.engine))
                with capture_logs() as logs:
                    group.start_soon(let_go, logs)
                    (await open_when_up(url, 90.0, lambda db: upgrade(db.engine))).close()
            finally:
                go.set()
    finally:
        other.close()


def test_a_migration_takes_as_long_as_it_takes(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = Database.open(cluster.bare("slow"), statement_s=0.1)

    def take_long(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT pg_sleep(0.3)")
        connection.exec_driver_sql("CREATE TABLE made (id int)")

    monkeypatch.setattr(migrate, "_run", take_long)
    try:
        upgrade(db.engine)
        with db.engine.begin() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM made").scalar() == 0
            # Everything else keeps its limit.
            assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "100ms"
    finally:
        db.close()
        cluster.drop_bare("slow")


def _log(data_dir: Path) -> str:
    file = log_file(data_dir)
    return file.read_text() if file.exists() else ""
