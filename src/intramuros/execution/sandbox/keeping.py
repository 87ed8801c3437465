"""What hibernation needs of a live sandbox: its files as a stream, its shell as a script.

All of it goes through the sandbox's own process 1 (``inside/keep.py``), so it is the same for every
provider that has one, costs the sandbox's limits and not the worker's, and reaches nothing that the
sandbox's user cannot. What comes out is foreign: it is sealed and stored, never looked into, and it
goes back in by the same door.
"""

import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import anyio

from intramuros.execution.sandbox.base import SandboxError, SandboxGone
from intramuros.execution.sandbox.channel import Channel

TELL_S: Final = 10.0
ADOPT_S: Final = 20.0
MAX_SCRIPT_BYTES: Final = 4 * 1024 * 1024
_STEP_S: Final = 60.0
_JOB: Final = re.compile(r"\[\d+\][+-]?\s+(\d{1,10})\s+\w+\s+(.*)")
_MAX_LINES: Final = 64
_MAX_LINE: Final = 400


@dataclass(frozen=True, slots=True)
class Process:
    """A process that ran in the background: ``age_s`` seconds old."""

    pid: int
    age_s: int
    command: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a finished save was of."""

    entries: int = 0
    data_bytes: int = 0
    """Of files' content; holes and names not counted."""
    processes: tuple[Process, ...] = ()
    sockets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """A shell's state: ``script`` is None when there was no shell."""

    script: bytes | None = None
    lost: tuple[str, ...] = ()
    """What the script does not bring back, in words."""
    jobs: Mapping[int, str] = field(default_factory=dict)
    """The command of each background job, by the pid of its first process."""


@dataclass
class Keeper:
    """Saves and loads one live sandbox.

    Args:
        roots: the directories inside that are its writable state, by the names under which they
            are stored.
        limit_bytes: of files' content, when loading.
    """

    channel: Channel
    roots: Mapping[str, str]
    limit_bytes: int
    facts: Facts = field(default_factory=Facts)
    """Of the last save that came to its end."""

    async def tell(self) -> Told:
        """Ask the shell for its state; one that does not tell it is named as lost."""
        try:
            answer = await self._ask("tell", **_timed(TELL_S))
        except SandboxGone:
            raise
        except SandboxError as error:
            return Told(None, (f"the shell's directory, variables and functions ({error})",))
        if "none" in answer:
            return Told()
        script = answer.get("script", b"")
        if len(script) > MAX_SCRIPT_BYTES:
            return Told(None, ("the shell's variables and functions: they are too large",))
        lost = tuple(_words(answer.get("lost", b"")))
        return Told(script or None, lost, _jobs(answer.get("jobs", b"")))

    async def save(self) -> AsyncGenerator[bytes]:
        """Yield the files as they are at one moment: everything inside stands still meanwhile.

        Raises:
            SandboxError: something cannot be kept; nothing was changed.
        """
        await self._ask("save", roots=self._roots())
        ended = False
        try:
            while True:
                answer = await self._ask("pull")
                if "end" in answer:
                    ended = True
                    self.facts = _facts(answer)
                    return
                yield answer.get("data", b"")
        finally:
            if not ended:
                await self._drop()

    async def load(self, chunks: AsyncIterable[bytes]) -> int:
        """Fill the empty directories; returns how many extended attributes could not be set.

        Raises:
            SandboxError: the stream is not what it should be, or the disk is full.
        """
        await self._ask("load", roots=self._roots(), limit=b"%d" % self.limit_bytes)
        answer: dict[str, bytes] = {}
        try:
            async for chunk in chunks:
                answer = await self._ask("push", data=chunk)
                if "end" in answer:
                    break
            if "end" not in answer:
                answer = await self._ask("push", data=b"", last=b"1")
        except BaseException:
            await self._drop()
            raise
        return _count(answer, "attributes_lost")

    async def adopt(self, script: bytes) -> list[str]:
        """Start a shell that runs a script first; returns what it complained about."""
        answer = await self._ask("adopt", script=script, **_timed(ADOPT_S))
        complaints = _words(answer.get("output", b"").replace(b"\n", b"\0"))
        if answer.get("state") != b"done":
            complaints.append("the shell did not take its state back; it was started anew")
        return complaints

    def _roots(self) -> bytes:
        return "\0".join(f"{label}={path}" for label, path in self.roots.items()).encode()

    async def _ask(self, act: str, **fields: bytes) -> dict[str, bytes]:
        try:
            with anyio.fail_after(_STEP_S):
                answer = await self.channel.request("state", {"act": act.encode(), **fields})
        except TimeoutError as error:
            raise SandboxError("the sandbox did not answer in time") from error
        if "error" in answer:
            raise SandboxError(answer["error"].decode("utf-8", "replace")[:_MAX_LINE])
        return answer

    async def _drop(self) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_STEP_S):
            try:
                await self._ask("drop")
            except SandboxError:
                return


@runtime_checkable
class Keepable(Protocol):
    """A sandbox that can be put away as files."""

    @property
    def keeper(self) -> Keeper:
        """What saves and loads it."""
        ...


def _timed(seconds: float) -> dict[str, bytes]:
    return {
        "nonce": secrets.token_hex(16).encode(),
        "timeout_ms": b"%d" % int(seconds * 1000),
    }


def _facts(answer: dict[str, bytes]) -> Facts:
    found = []
    for line in _words(answer.get("processes", b"")):
        pid, _, rest = line.partition("\t")
        age, _, said = rest.partition("\t")
        if pid.isdigit() and age.isdigit():
            found.append(Process(int(pid), int(age), said))
    return Facts(
        _count(answer, "entries"),
        _count(answer, "bytes"),
        tuple(found),
        tuple(_words(answer.get("sockets", b""))),
    )


def _jobs(raw: bytes) -> dict[int, str]:
    """Parse what ``jobs -l`` says: ``[1]- 13 Running  command &``, the command on several lines."""
    found: dict[int, str] = {}
    last = 0
    for line in _words(raw.replace(b"\n", b"\0")):
        match = _JOB.fullmatch(line)
        if match:
            last = int(match[1])
            found[last] = match[2].strip()
        elif last:
            found[last] = f"{found[last]} {line.strip()}"[:_MAX_LINE]
    return found


def _count(answer: dict[str, bytes], name: str) -> int:
    raw = answer.get(name, b"0")[:20]
    return int(raw) if raw.isdigit() else 0


def _words(raw: bytes) -> list[str]:
    """Return short printable lines of NUL-separated bytes; they are foreign, and go to a model."""
    said = raw.decode("utf-8", "replace").split("\0")
    lines = ["".join(c if c.isprintable() or c == "\t" else " " for c in word) for word in said]
    return [line[:_MAX_LINE] for line in lines if line.strip()][:_MAX_LINES]
