"""A program in a sandbox that a person holds: its input and output travel as they come."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from intramuros.execution.sandbox.base import WORKSPACE, SandboxError
from intramuros.execution.sandbox.channel import Wire

SFTP: Final = "sftp"
RELAY: Final = "relay"


@dataclass(frozen=True, slots=True)
class Terminal:
    """The size of a terminal, in characters."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Attaching:
    """How a program is run."""

    terminal: Terminal | None = None
    """Gives it a terminal instead of pipes."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the sandbox's own."""
    module: str | None = None
    """One of our own programs inside, SFTP or RELAY; the command line is its arguments."""

    def fields(self, argv: Sequence[str]) -> dict[str, bytes]:
        """Return them as process 1 wants them.

        Raises:
            SandboxError: a NUL byte somewhere.
        """
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        if any("\0" in word for word in (*argv, *variables)):
            raise SandboxError("a NUL byte is not allowed here")
        fields = {
            "argv": "\0".join(argv).encode("utf-8", "surrogateescape"),
            "env": "\0".join(variables).encode("utf-8", "surrogateescape"),
            "cwd": WORKSPACE.encode(),
        }
        if self.module is not None:
            fields["module"] = self.module.encode()
        if self.terminal is not None:
            fields["rows"] = b"%d" % self.terminal.rows
            fields["columns"] = b"%d" % self.terminal.columns
        return fields


PLAIN: Final = Attaching()


class Attachment:
    """One running program."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._consumed = 0
        self.exit_code: int | None = None
        """Known once :meth:`receive` returned None; 128 plus the signal when one ended it."""

    async def receive(self) -> tuple[bytes, bool] | None:
        """Return what the program wrote next, and whether as an error; None once it ended.

        The caller has done with what came before: that lets the program go on.

        Raises:
            SandboxGone: the sandbox is dead.
            SandboxError: it could not be started.
        """
        if self._consumed:
            consumed, self._consumed = self._consumed, 0
            await self._wire.tell("more", count=b"%d" % consumed)
        frame = await self._wire.receive()
        if "error" in frame:
            raise SandboxError(frame["error"].decode("utf-8", "replace"))
        if "code" in frame:
            code = frame["code"]
            self.exit_code = int(code) if code.isdigit() and len(code) < 4 else 255
            return None
        data = frame.get("out", frame.get("err", b""))
        self._consumed = len(data)
        return data, "err" in frame

    async def send(self, data: bytes) -> None:
        """Give the program input; somebody must be receiving meanwhile."""
        await self._wire.send(data)

    async def finish(self) -> None:
        """The program gets no more input."""
        await self._wire.tell("input", eof=b"1")

    async def resize(self, terminal: Terminal) -> None:
        """Its terminal has another size now."""
        size = {"rows": b"%d" % terminal.rows, "columns": b"%d" % terminal.columns}
        await self._wire.tell("resize", **size)

    async def signal(self, number: int) -> None:
        """Send it and its group a signal."""
        await self._wire.tell("signal", number=b"%d" % number)


@runtime_checkable
class Attachable(Protocol):
    """A sandbox in which programs can be held."""

    def attach(
        self, argv: Sequence[str], options: Attaching = PLAIN
    ) -> AbstractAsyncContextManager[Attachment]:
        """Run a program; leaving the block ends it.

        Raises:
            SandboxGone, SandboxPaused: nothing was run.
        """
        ...
