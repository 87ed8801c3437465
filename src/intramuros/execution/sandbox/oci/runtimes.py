"""The programs that run containers: where they are, how each is called, and what it needs here."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from intramuros.execution.sandbox.base import SandboxUnavailable

Kind = Literal["runc", "crun", "runsc"]

CONTAINERS: Final[tuple[Kind, ...]] = ("runc", "crun")
"""In the order in which they are looked for."""
GVISOR: Final[tuple[Kind, ...]] = ("runsc",)
SEARCH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Distributions put them where an ordinary user's PATH does not lead."""
_TRIAL_S: Final = 10
_VERSION: Final = re.compile(r"^(runc|crun|runsc) version (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Whereabouts:
    """One container's name and places, as its runtime sees them."""

    container_id: str
    bundle: str
    state: str
    """Directory of the runtime's own."""
    pid_file: str


@dataclass(frozen=True)
class Runtime:
    """One program that runs containers."""

    kind: Kind
    binary: Path
    version: str

    def command(self, where: Whereabouts, *, network: bool) -> list[str]:
        """Return the command line that starts a container and leaves it running.

        Args:
            network: whether the container's network is to be one that the host can listen in.
        """
        how = ["--detach", "--bundle", where.bundle, "--pid-file", where.pid_file]
        options = self._options(network)
        return [self.kind, "--root", where.state, *options, "run", *how, where.container_id]

    def _options(self, network: bool) -> list[str]:
        if self.kind == "runc":
            return ["--rootless", "true"]  # do not insist on control groups: it is in ours already
        if self.kind == "crun":
            return ["--cgroup-manager=disabled"]
        return ["--ignore-cgroups", f"--network={'host' if network else 'none'}"]

    def in_the_way(self, mountinfo: str) -> list[str]:
        """Return the mounts that this runtime must not see.

        crun refuses hosts that have both versions of control groups mounted.

        Args:
            mountinfo: content of ``/proc/self/mountinfo``.
        """
        rows = [line.partition(" - ") for line in mountinfo.splitlines()]
        kinds = {right.split()[0] for _, _, right in rows}
        if self.kind != "crun" or not {"cgroup", "cgroup2"} <= kinds:
            return []
        return [left.split()[4] for left, _, right in rows if right.split()[0] == "cgroup2"]


def find_runtime(kinds: tuple[Kind, ...], named: str | None = None) -> Runtime:
    """Return the first program there is of these kinds, or the one that was named.

    Args:
        named: a kind or an absolute path.

    Raises:
        SandboxUnavailable: there is none, it does not run, or it is of another kind.
    """
    if named is not None and named.startswith("/"):
        return _identify(Path(named), kinds)
    if named is not None and named not in kinds:
        raise SandboxUnavailable(
            f"{named!r} runs no such sandboxes", f"name one of {', '.join(kinds)}, or a path"
        )
    wanted: tuple[str, ...] = kinds if named is None else (named,)
    for name in wanted:
        found = shutil.which(name, path=SEARCH)
        if found is not None:
            return _identify(Path(found), kinds)
    raise SandboxUnavailable(
        f"{' or '.join(wanted)} is not installed", f"run: sudo apt-get install {wanted[0]}"
    )


def _identify(binary: Path, kinds: tuple[Kind, ...]) -> Runtime:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command line
            [str(binary), "--version"],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TRIAL_S,
            check=False,
        )
        said = done.stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxUnavailable(f"{binary} does not run ({error})", "reinstall it") from error
    found = _VERSION.search(said)
    for kind in kinds:
        if found is not None and found[1] == kind:
            return Runtime(kind, binary.resolve(), found[2])
    raise SandboxUnavailable(
        f"{binary} is no {' or '.join(kinds)}", f"name one of {', '.join(kinds)}, or another path"
    )


@dataclass(frozen=True)
class Subordinates:
    """What an ordinary user may give to containers."""

    uid: int
    gid: int
    tools: tuple[str, str]


def find_subordinates(etc: Path = Path("/etc")) -> Subordinates:
    """Return the ids and tools with which this user can be two users.

    Raises:
        SandboxUnavailable: he has none.
    """
    tools = tuple(shutil.which(name, path=SEARCH) for name in ("newuidmap", "newgidmap"))
    if tools[0] is None or tools[1] is None:
        raise SandboxUnavailable(
            "an ordinary user needs newuidmap and newgidmap to run containers",
            "run: sudo apt-get install uidmap, or run the worker as root",
        )
    owner = str(os.geteuid())
    names = {owner, _name_of(owner, etc / "passwd")}
    found = [_first_of(etc / file, names) for file in ("subuid", "subgid")]
    if found[0] is None or found[1] is None:
        raise SandboxUnavailable(
            "this user has no subordinate ids, of which containers need one",
            "run: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535"
            f" {max(names)}",
        )
    return Subordinates(found[0], found[1], (tools[0], tools[1]))


def _name_of(uid: str, passwd: Path) -> str:
    rows = (line.split(":") for line in _lines(passwd))
    return next((row[0] for row in rows if len(row) > 2 and row[2] == uid), uid)


def _first_of(file: Path, names: set[str]) -> int | None:
    for line in _lines(file):
        owner, _, rest = line.partition(":")
        start, _, count = rest.partition(":")
        if owner in names and start.isdigit() and count.isdigit() and int(count) > 0:
            return int(start)
    return None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
