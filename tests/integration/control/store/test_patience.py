"""Servers that are started before their PostgreSQL."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from anthropic import Anthropic

from intramuros.control.store.db import Database
from intramuros.control.store.drivers import DatabaseAway
from intramuros.control.store.patience import open_when_up
from intramuros.kernel.errors import OperatorError
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


def _log(data_dir: Path) -> str:
    file = log_file(data_dir)
    return file.read_text() if file.exists() else ""
