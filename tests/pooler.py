"""A real PgBouncer before a test's PostgreSQL, which hands out connections by transaction."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.postgres import Cluster, _as
from tests.wire.site import until

POOL = 3
_FOUND = ("pgbouncer", "/usr/sbin/pgbouncer")


def binary() -> str | None:
    """Where PgBouncer is, or None."""
    return next((path for name in _FOUND if (path := shutil.which(name))), None)


@contextmanager
def pooling(cluster: Cluster) -> Iterator[Path]:
    """Run one until the block ends; gives the directory of its socket, at port 6432."""
    where = binary()
    assert where is not None, "PgBouncer is not installed"
    directory = cluster.directory / "pooler"
    directory.mkdir()
    (directory / "users").write_text(f'"{cluster.user}" ""\n')
    (directory / "pgbouncer.ini").write_text(
        f"""
        [databases]
        * = host={cluster.directory}
        [pgbouncer]
        listen_addr =
        listen_port = 6432
        unix_socket_dir = {directory}
        auth_type = trust
        auth_file = {directory}/users
        pool_mode = transaction
        default_pool_size = {POOL}
        max_client_conn = 100
        logfile = {directory}/log
        """.replace("\n        ", "\n")
    )
    if os.geteuid() == 0:
        for path in (directory, *directory.iterdir()):
            shutil.chown(path, cluster.user)
    with subprocess.Popen(
        [where, "-q", directory / "pgbouncer.ini"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **_as(cluster.user),
    ) as process:
        try:
            socket = directory / ".s.PGSQL.6432"
            until(lambda: socket.exists() or process.poll() is not None or None)
            assert process.poll() is None, (directory / "log").read_text()
            yield directory
            assert process.poll() is None, (directory / "log").read_text()
        finally:
            process.terminate()
            process.wait(10)
            shutil.rmtree(directory, ignore_errors=True)
