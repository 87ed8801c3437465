"""Where everything lies in a data directory.

::

    DATA/intramuros.db         the control plane's database
    DATA/api-key               the first API key, mode 0600
    DATA/ticket-key.pem        the public half of the key that signs tickets, for edges
    DATA/edge/                 the edge's certificate, and its record
    DATA/worker/               the environment key, journal, workspaces, its record
    DATA/gateway/              certificates, token, configuration, its record
    DATA/run/                  lock, process ids, address: of no use once it is stopped
    DATA/log/                  what each program wrote to standard error
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from intramuros.kernel.errors import OperatorError


@dataclass(frozen=True)
class Layout:
    """Paths of one data directory."""

    root: Path

    @property
    def database(self) -> Path:
        """The control plane's database."""
        return self.root / "intramuros.db"

    @property
    def api_key(self) -> Path:
        """The first API key."""
        return self.root / "api-key"

    @property
    def control_key(self) -> Path:
        """The control plane's public key, which the server writes."""
        return self.root / "ticket-key.pem"

    @property
    def edge(self) -> Path:
        """The edge's files."""
        return self.root / "edge"

    @property
    def worker(self) -> Path:
        """The worker's files."""
        return self.root / "worker"

    @property
    def gateway(self) -> Path:
        """The gateway's files."""
        return self.root / "gateway"

    @property
    def run(self) -> Path:
        """What belongs to the running processes."""
        return self.root / "run"

    @property
    def log(self) -> Path:
        """Logs."""
        return self.root / "log"

    def audit_files(self) -> dict[str, Path]:
        """Return the record of each program on this side of the wall, if it is there."""
        files = {name: self.root / name / "audit.jsonl" for name in ("worker", "gateway", "edge")}
        return {name: file for name, file in files.items() if file.exists()}

    def address(self) -> str | None:
        """Return where the running server of this directory listens, or None."""
        try:
            return (self.run / "address").read_text().strip() or None
        except OSError:
            return None

    def create(self) -> None:
        """Make the directories, readable by this user alone.

        Raises:
            OperatorError: one cannot be made.
        """
        try:
            for directory in (self.root, self.edge, self.worker, self.gateway, self.run, self.log):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OperatorError(
                f"cannot create {error.filename} ({error.strerror})",
                "name a directory that this user may write with --data-dir",
            ) from error


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Own a data directory for a block; the lock goes with the process, however it ends.

    Raises:
        OperatorError: another process owns it.
    """
    fd = os.open(layout.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OperatorError(
                f"{layout.root} is in use by another `intramuros up`",
                "stop it, or name another --data-dir",
            ) from error
        yield
    finally:
        os.close(fd)
