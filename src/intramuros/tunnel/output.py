"""Where a gateway's files go: a directory, or a Kubernetes Secret.

The commands work on a directory in any case; for a Secret it is a private one that is filled from
it, saved to it and gone afterwards.
"""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from intramuros.kernel.errors import OperatorError
from intramuros.tunnel.certs import write_private
from intramuros.tunnel.kube import DEFAULT_SECRET, Cluster, checked

_DIRECTORY: Final = "dir:"
_SECRET: Final = "k8s-secret:"  # noqa: S105  a kind of target
Save = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Target:
    """A directory, or a Secret of a cluster."""

    directory: Path | None = None
    secret: str | None = None
    cluster: Cluster | None = None

    @property
    def shown(self) -> str:
        """What the target is called."""
        return f"{_SECRET}{self.secret}" if self.directory is None else str(self.directory)


def target(output: str | None, directory: Path | None) -> Target:
    """Return where to put files.

    Args:
        output: ``dir:PATH`` or ``k8s-secret:NAME``; None for the directory, and inside a cluster
            for the Secret ``mcp-tunnel``.
        directory: given by itself, or None.

    Raises:
        OperatorError: both are given, the output is malformed, or there is no cluster here.
    """
    if output is not None and directory is not None:
        raise OperatorError("--output and --dir are both given", "give one of them")
    cluster = Cluster.here()
    if output is None and (directory is not None or cluster is None):
        return Target(directory or Path("gateway"))
    wanted = output or f"{_SECRET}{DEFAULT_SECRET}"
    if wanted.startswith(_DIRECTORY) and len(wanted) > len(_DIRECTORY):
        return Target(Path(wanted.removeprefix(_DIRECTORY)))
    if not wanted.startswith(_SECRET):
        raise OperatorError(f"output {wanted!r} is malformed", "use dir:PATH or k8s-secret:NAME")
    if cluster is None:
        raise OperatorError("this is no pod of a cluster", "use --output dir:PATH")
    return Target(secret=checked(wanted.removeprefix(_SECRET)), cluster=cluster)


@asynccontextmanager
async def opened(where: Target) -> AsyncIterator[tuple[Path, Save]]:
    """Give a directory with the target's files, and what saves it; nothing is saved otherwise.

    Raises:
        OperatorError: the cluster refused, or the Secret changed meanwhile.
    """
    if where.cluster is None or where.secret is None:
        yield where.directory or Path("gateway"), _kept
        return
    cluster, secret = where.cluster, where.secret
    kept = await cluster.read(secret)
    with tempfile.TemporaryDirectory(prefix="intramuros-") as scratch:
        directory = Path(scratch)
        for name, data in kept.files.items():
            if _is_file(name):
                write_private(directory / name, data)

        async def save() -> None:
            files = _files(directory)
            if files != dict(kept.files):
                await cluster.write(secret, files, kept)

        yield directory, save


def _files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def _kept() -> None:
    """A directory holds what was written to it."""


def _is_file(name: str) -> bool:
    return "/" not in name and name not in ("", ".", "..")
