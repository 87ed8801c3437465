"""A real PostgreSQL in a directory of its own, on a socket that only we reach."""

import getpass
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psycopg

from intramuros.control.store import migrate
from intramuros.control.store.postgres import Postgres

START_S = 60
# Nobody keeps these databases: what a crash of the machine would lose does not matter.
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "deadlock_timeout": "200ms",
}


_DISCONNECT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_TABLES = (
    "SELECT quote_ident(tablename) FROM pg_tables"
    " WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
)
_SEQUENCES = "SELECT quote_ident(sequencename) FROM pg_sequences"


@cache
def binaries() -> Path | None:
    """Where initdb and postgres are, of the newest version; None if nothing can be started."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return None  # it wants to know its user's name
    found = sorted(
        (path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()),
        key=lambda path: float(path.parent.name),
    )
    if found:
        return found[-1]
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@dataclass
class Cluster:
    """A running server. Databases are named after what asked for them."""

    directory: Path
    user: str
    settings: Mapping[str, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    free: list[str] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None
    _emptying: str = ""
    _made: int = 0

    def url(self, name: str) -> str:
        return f"postgresql://{self.user}@/{name}?host={self.directory}"

    def run(self, sql: str, name: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def database(self, key: str) -> str:
        """The URL of the database of that key: migrated and empty when it is asked for first."""
        if key not in self.used:
            self.used[key] = self.free.pop() if self.free else self._make()
        return self.url(self.used[key])

    def release(self, directory: Path) -> None:
        """Empty the databases of keys that are paths in a directory, for others to use."""
        for key in [key for key in self.used if directory in Path(key).parents]:
            name = self.used.pop(key)
            self.run(_DISCONNECT, name)
            self.run("SET session_replication_role = replica;" + self._emptying, name)
            self.free.append(name)

    def drop(self, key: str) -> None:
        """Do away with the database of a key."""
        self.run(f"DROP DATABASE {self.used.pop(key)} WITH (FORCE)")

    def bare(self, key: str) -> str:
        """The URL of a new database without any table."""
        name = _bare_name(key)
        self.run(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def drop_bare(self, key: str) -> None:
        """Do away with it."""
        self.run(f"DROP DATABASE {_bare_name(key)} WITH (FORCE)")

    def _make(self) -> str:
        if not self._emptying:
            self.run("CREATE DATABASE migrated TEMPLATE template0")
            backend = Postgres.open(self.url("migrated"))
            migrate.upgrade(backend.engine)
            backend.engine.dispose()
            tables = [str(row[0]) for row in self.run(_TABLES, "migrated")]
            sequences = [str(row[0]) for row in self.run(_SEQUENCES, "migrated")]
            self._emptying = ";".join(
                [f"DELETE FROM {name}" for name in tables]
                + [f"ALTER SEQUENCE {name} RESTART" for name in sequences]
            )
        self._made += 1
        name = f"test_{self._made}"
        self.run(f"CREATE DATABASE {name} TEMPLATE migrated")
        return name

    def start(self) -> None:
        """Start the server and wait until it answers."""
        where = binaries()
        assert where is not None
        options = {**SETTINGS, **self.settings, "unix_socket_directories": str(self.directory)}
        given = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [where / "postgres", "-D", self.directory / "data", *given],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                **_as(self.user),
            )
        ready = [where / "pg_isready", "-q", "-h", str(self.directory), "-t", str(START_S)]
        while subprocess.run(ready, check=False).returncode != 0:
            if self.process.poll() is not None:
                raise RuntimeError((self.directory / "log").read_text())
            try:
                self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue

    def stop(self) -> None:
        """End the server at once, but in order."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(START_S)
            self.process = None

    def kill(self) -> None:
        """Have all of the server's processes die at once, as when its machine does."""
        assert self.process is not None
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(START_S)
        self.process = None

    def freeze(self, *, thaw: bool = False) -> None:
        """Have all of the server's processes stand still, or go on."""
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT if thaw else signal.SIGSTOP)

    def _pids(self) -> list[int]:
        """The server's processes, the first one first."""
        assert self.process is not None
        first = self.process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]


@contextmanager
def following(cluster: Cluster, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Run a replica that streams from a server until the block ends; it has all databases."""
    where = binaries()
    assert where is not None
    directory = _directory(cluster.user)
    try:
        subprocess.run(
            [
                *(where / "pg_basebackup", "-D", directory / "data", "-R", "-X", "stream"),
                *("--checkpoint=fast", "--no-sync", "-U", cluster.user, "-h", cluster.directory),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=directory,
            **_as(cluster.user),
        )
        replica = Cluster(directory, cluster.user, {**cluster.settings, **(settings or {})})
        try:
            replica.start()
            yield replica
        finally:
            replica.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def running(settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Run a new server until the block ends. It refuses to run as root: then it is nobody's."""
    where = binaries()
    assert where is not None, "PostgreSQL is not installed"
    user = "nobody" if os.geteuid() == 0 else getpass.getuser()
    directory = _directory(user)
    try:
        subprocess.run(
            [
                *(where / "initdb", "-D", directory / "data", "-U", user, "--auth=trust"),
                # Another order of text than ours, on purpose.
                *("--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=directory,
            **_as(user),
        )
        cluster = Cluster(directory, user, dict(settings or {}))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _directory(user: str) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="intramuros-pg-"))
    if os.geteuid() == 0:
        account = pwd.getpwnam(user)
        os.chown(directory, account.pw_uid, account.pw_gid)
    return directory


def _bare_name(key: str) -> str:
    return f"bare_{hashlib.sha256(key.encode()).hexdigest()[:20]}"


def _as(user: str) -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(user)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
