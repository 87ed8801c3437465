"""One channel of a connection: a person's shell, command, file transfer or tunnel in a sandbox."""

import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import anyio
import asyncssh
from asyncssh.misc import SoftEOFReceived

from intramuros.execution.guests import Guest
from intramuros.execution.record import INWARD, Record, RecordFailed, weigh
from intramuros.execution.sandbox.attachments import (
    RELAY,
    SFTP,
    Attachable,
    Attaching,
    Attachment,
    Terminal,
)
from intramuros.execution.sandbox.base import Sandbox, SandboxError, SandboxGone
from intramuros.execution.ssh.casts import Cast
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock

log = logger("ssh")

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_CHUNK: Final = 32 * 1024
_NO_SANDBOX: Final = 69
_REFUSED: Final = 77
# What a client may ask for by name (RFC 4254, 6.9), but for those that make a core or stop.
_SIGNALS: Final = {
    name: int(getattr(signal, f"SIG{name}"))
    for name in ("HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2", "ALRM", "PIPE")
}
_VARIABLES: Final = ("LANG", "LC_")
_MAX_SIDE: Final = 1000
_LOGIN: Final = ("/bin/bash", "-l")


class Reader(Protocol):
    """What comes from the person."""

    async def read(self, n: int = -1) -> bytes:
        """Return some bytes; none at the end."""
        ...


class Writer(Protocol):
    """What goes to the person."""

    def write(self, data: bytes) -> None:
        """Send bytes, soon."""
        ...

    async def drain(self) -> None:
        """Wait until there is room for more."""
        ...


@dataclass(frozen=True)
class Rooms:
    """What visits need of the worker."""

    visit: Callable[[str], Awaitable[Sandbox | None]]
    """Gives the live sandbox of a session; it stands still for nobody while they are there."""
    record: Record
    clock: Clock
    casts: Path | None
    """Directory of recordings; None records no terminals."""


class Visit:
    """One channel of one guest."""

    def __init__(self, rooms: Rooms, guest: Guest) -> None:
        self._rooms = rooms
        self._guest = guest
        self._cast: Cast | None = None

    async def process(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        """Run what a person asked for, from start to end; raises nothing but cancellation."""
        kind, argv, options = wanted(process)
        status = await self._enter(kind, process.command, process.stderr)
        if isinstance(status, int):
            process.exit(status)
            return
        try:
            if options.terminal is not None and self._rooms.casts is not None:
                self._cast = self._begin(self._rooms.casts, options.terminal)
            async with status.attach(argv, options) as held, anyio.create_task_group() as group:
                group.start_soon(self._inward, process.stdin, held)
                group.start_soon(_until_closed, process.channel, group.cancel_scope)
                await self._outward(held, process.stdout, process.stderr)
                group.cancel_scope.cancel()
            process.exit(255 if held.exit_code is None else held.exit_code)
        except (OSError, asyncssh.Error, SandboxError, BaseExceptionGroup) as error:
            if isinstance(error, BaseExceptionGroup) and error.split(_EXPECTED)[1] is not None:
                raise
            log.info("visit_cut_short", session_id=self._guest.session_id, error=repr(error))
            _say(process.stderr, _why(error))
            process.exit(255)
        finally:
            self._end_cast()

    async def tunnel(self, port: int, reader: Reader, writer: Writer) -> None:
        """Carry one connection to a port of the sandbox."""
        sandbox = await self._enter("forward", str(port), None)
        if isinstance(sandbox, int):
            return
        options = Attaching(module=RELAY)
        try:
            held_open = sandbox.attach([str(port)], options)
            async with held_open as held, anyio.create_task_group() as group:
                group.start_soon(self._inward, reader, held)
                await self._outward(held, writer, None)
                group.cancel_scope.cancel()
        except (OSError, asyncssh.Error, SandboxError, BaseExceptionGroup) as error:
            if isinstance(error, BaseExceptionGroup) and error.split(_EXPECTED)[1] is not None:
                raise
            log.info("tunnel_cut_short", session_id=self._guest.session_id, error=repr(error))

    async def _enter(
        self, kind: str, command: str | None, stderr: Writer | None
    ) -> Attachable | int:
        """Write down what is about to run and return where, or the status it ends with."""
        session_id = self._guest.session_id
        try:
            sandbox = await self._rooms.visit(session_id)
        except SandboxError:
            sandbox = None
        if sandbox is None or not isinstance(sandbox, Attachable):
            _say(stderr, f"{session_id} has no running sandbox: it comes with the next tool call")
            return _NO_SANDBOX
        weight = weigh(command or "")
        try:
            await self._rooms.record.write(
                "ssh.run",
                direction=INWARD,
                session_id=session_id,
                who=self._guest.who,
                what=kind,
                bytes=weight.size,
                sha256=weight.sha256,
            )
        except RecordFailed:
            _say(stderr, "refused: the worker could not record it")
            return _REFUSED
        return sandbox

    async def _inward(self, reader: Reader, held: Attachment) -> None:
        """Pass on what the person sends, until they send no more."""
        while True:
            try:
                data = await reader.read(_CHUNK)
            except asyncssh.TerminalSizeChanged as change:
                size = _size(change.height, change.width)
                await held.resize(size)
                if self._cast is not None:
                    self._cast.resize(size.rows, size.columns)
                continue
            except asyncssh.SignalReceived as received:
                if received.signal in _SIGNALS:
                    await held.signal(_SIGNALS[received.signal])
                continue
            except (asyncssh.BreakReceived, SoftEOFReceived):
                continue
            if not data:
                await held.finish()
                return
            self._seen()
            self._guest.bytes_in += len(data)
            if self._cast is not None:
                self._cast.input(data)
            await held.send(data)

    async def _outward(self, held: Attachment, out: Writer, err: Writer | None) -> None:
        """Pass on what the program writes, until it ends."""
        while (got := await held.receive()) is not None:
            data, is_error = got
            sink = err if is_error else out
            if sink is None:
                continue
            self._seen()
            self._guest.bytes_out += len(data)
            if self._cast is not None:
                self._cast.output(data)
            sink.write(data)
            await sink.drain()

    def _seen(self) -> None:
        self._guest.seen_s = self._rooms.clock.monotonic()

    def _begin(self, folder: Path, terminal: Terminal) -> Cast:
        """Begin a recording; where it is wanted and cannot be, nobody comes in."""
        clock = self._rooms.clock
        when = clock.now().strftime("%Y%m%dT%H%M%S%f")
        name = f"{self._guest.session_id}-{when}.cast"
        return Cast(folder / name, clock, terminal.rows, terminal.columns)

    def _end_cast(self) -> None:
        if self._cast is None:
            return
        size, digest = self._cast.close()
        session_id = self._guest.session_id
        self._rooms.record.note("ssh.recorded", session_id=session_id, bytes=size, sha256=digest)


_EXPECTED = (OSError, asyncssh.Error, SandboxError)


def wanted(process: "asyncssh.SSHServerProcess[bytes]") -> tuple[str, tuple[str, ...], Attaching]:
    """Return what a person asked for: its kind, the command line and how it is run."""
    if process.subsystem == "sftp":
        return "sftp", (), Attaching(module=SFTP)
    variables = {
        name: value for name, value in process.env.items() if str(name).startswith(_VARIABLES)
    }
    terminal = None
    if process.term_type is not None:
        columns, rows, _, _ = process.term_size
        terminal = _size(rows, columns)
        variables["TERM"] = process.term_type
    options = Attaching(terminal, variables)
    if process.command is not None:
        return "exec", ("/bin/bash", "-c", process.command), options
    return "shell", _LOGIN, options


def _size(rows: int, columns: int) -> Terminal:
    return Terminal(min(rows or 24, _MAX_SIDE), min(columns or 80, _MAX_SIDE))


def _say(stderr: Writer | None, text: str) -> None:
    if stderr is not None:
        stderr.write(f"{text}\r\n".encode())


def _why(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return _why(error.exceptions[0])
    if isinstance(error, SandboxGone):
        return "the sandbox is gone"
    return str(error) if isinstance(error, SandboxError) else "the connection broke"


async def _until_closed(
    channel: "asyncssh.SSHServerChannel[bytes]", scope: anyio.CancelScope
) -> None:
    """Stop what runs once nobody is there any more."""
    await channel.wait_closed()
    scope.cancel()
