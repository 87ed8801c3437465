"""The host's end of the socket to a sandbox's process 1.

Calls overlap without a background task: whoever waits and finds nobody reading, reads, and hands
answers meant for others to them. Everything that arrives is foreign.
"""

import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
from anyio.lowlevel import checkpoint

from intramuros.execution.sandbox.base import SandboxGone
from intramuros.execution.sandbox.inside import frames

_SEND_S = 10.0
_CHUNK = 256 * 1024
WINDOW = 256 * 1024
"""Bytes of input that may be on their way to a program."""


class Channel:
    """Requests and answers, matched by id."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reader = frames.Reader()
        self._sending = anyio.Lock(fast_acquire=True)
        self._reading = False
        self._sleepers: dict[anyio.Event, bytes] = {}
        """Who waits while another one reads, and for what."""
        self._answers: dict[bytes, dict[str, bytes] | None] = {}
        self._wires: dict[bytes, Wire] = {}
        self._last_id = 0
        self.closed = False

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._answers)

    async def request(self, op: str, fields: Mapping[str, bytes]) -> dict[str, bytes]:
        """Send one call and return its answer's fields; cancelling it cancels the call inside.

        Raises:
            SandboxGone: process 1 is dead or broke the format.
        """
        self._last_id += 1
        number = b"%d" % self._last_id
        return await self._exchange(number, {**fields, "op": op.encode(), "id": number})

    async def configure(self, fields: Mapping[str, bytes]) -> dict[str, bytes]:
        """Send the first frame and return process 1's ``ready``."""
        return await self._exchange(b"0", {**fields, "op": b"configure", "id": b"0"})

    @asynccontextmanager
    async def open(self, fields: Mapping[str, bytes]) -> AsyncIterator["Wire"]:
        """Start a program whose input and output travel as they come; leaving ends it."""
        self._last_id += 1
        number = b"%d" % self._last_id
        wire = Wire(self, number)
        self._wires[number] = wire
        try:
            await self._send(frames.encode({**fields, "op": b"open", "id": number}))
            yield wire
        finally:
            del self._wires[number]
            if not self.closed and not wire.ended:
                cancel = {"op": b"cancel", "id": b"", "target": number}
                with anyio.CancelScope(shield=True):
                    await self._send_quietly(frames.encode(cancel))

    async def tell(self, op: str, number: bytes, /, **fields: bytes) -> None:
        """Send something that gets no answer."""
        told = {**fields, "op": op.encode(), "id": b"", "target": number}
        await self._send(frames.encode(told))

    async def await_wire(self, wire: "Wire") -> None:
        """Wait until a wire has something.

        Raises:
            SandboxGone: there will be nothing.
        """
        await self._until(wire.number, lambda: bool(wire.arrived))

    async def _exchange(self, number: bytes, fields: dict[str, bytes]) -> dict[str, bytes]:
        data = frames.encode(fields)
        self._answers[number] = None
        try:
            await self._send(data)
            return await self._wait(number)
        except BaseException:
            # A cancelled caller must not leave the command running, nor its answer waiting.
            if not self.closed:
                cancel = {"op": b"cancel", "id": b"", "target": number}
                with anyio.CancelScope(shield=True):
                    await self._send_quietly(frames.encode(cancel))
            raise
        finally:
            self._answers.pop(number, None)

    async def _send_quietly(self, data: bytes) -> None:
        try:
            await self._send(data)
        except SandboxGone:
            await checkpoint()

    async def _send(self, data: bytes) -> None:
        """Send a whole frame or break the channel: half a frame would garble every later one."""
        async with self._sending:
            with anyio.move_on_after(_SEND_S, shield=True) as scope:
                view = memoryview(data)
                while view:
                    view = view[await self._send_some(view) :]
            if scope.cancelled_caught:
                self.close()
                raise SandboxGone("the sandbox does not read its calls")

    async def _send_some(self, view: memoryview) -> int:
        if self.closed:
            raise SandboxGone("the sandbox is gone")
        try:
            return self._sock.send(view[:_CHUNK])
        except BlockingIOError:
            await anyio.wait_writable(self._sock)
            return 0
        except (OSError, anyio.ClosedResourceError) as error:
            self.close()
            raise SandboxGone("the sandbox is gone") from error

    async def _wait(self, number: bytes) -> dict[str, bytes]:
        await self._until(number, lambda: self._answers[number] is not None)
        return self._answers[number] or {}

    async def _until(self, number: bytes, arrived: Callable[[], bool]) -> None:
        """Wait until something has arrived: one who waits reads for all and wakes whose it is.

        Whose answer came before he began to wait must not wait for who reads: that one may be
        waiting for something slow, and nothing more might come until then.
        """
        while not arrived():
            if self._reading:
                woken = anyio.Event()
                self._sleepers[woken] = number
                try:
                    await woken.wait()
                finally:
                    del self._sleepers[woken]
                continue
            self._reading = True
            try:
                while not arrived():
                    await self._receive()
            finally:
                self._reading = False
                for sleeper in self._sleepers:
                    sleeper.set()  # one of them reads from now on

    async def _receive(self) -> None:
        """Wait, read once and deliver what came to whoever waits for it."""
        if self.closed:
            raise SandboxGone("the sandbox is gone")
        try:
            await anyio.wait_readable(self._sock)
            data = self._sock.recv(_CHUNK)
            arrived = self._reader.feed(data)
        except frames.FrameError as error:
            self.close()
            raise SandboxGone(f"the sandbox broke its channel ({error})") from error
        except BlockingIOError:
            return
        except (OSError, anyio.ClosedResourceError) as error:
            self.close()
            raise SandboxGone("the sandbox is gone") from error
        if not data:
            self.close()
            raise SandboxGone("the sandbox is gone")
        for fields in arrived:
            self._deliver(fields)

    def _deliver(self, fields: dict[str, bytes]) -> None:
        number = fields.get("id", b"")
        if number in self._answers:
            self._answers[number] = fields
        elif number in self._wires:
            self._wires[number].feed(fields)
        for sleeper, wanted in self._sleepers.items():
            if wanted == number:
                sleeper.set()

    def close(self) -> None:
        """Close the socket, which ends process 1. Idempotent."""
        if not self.closed:
            self.closed = True
            anyio.notify_closing(self._sock)
            self._sock.close()


class Wire:
    """The host's end of one program's input and output."""

    def __init__(self, channel: Channel, number: bytes) -> None:
        self._channel = channel
        self.number = number
        self._ahead = 0
        self._passed_on = anyio.Event()
        self.arrived: deque[dict[str, bytes]] = deque()
        self.ended = False
        """Whether the last frame has come."""

    def feed(self, fields: dict[str, bytes]) -> None:
        """Take a frame of process 1."""
        if "taken" not in fields:
            self.ended = self.ended or "code" in fields or "error" in fields
            self.arrived.append(fields)
            return
        if fields["taken"].isdigit():
            self._ahead = max(0, self._ahead - int(fields["taken"]))
        self._passed_on.set()

    async def receive(self) -> dict[str, bytes]:
        """Return the next frame: ``out``, ``err``, ``code`` or ``error``.

        Raises:
            SandboxGone: there will be none.
        """
        while not self.arrived:
            await self._channel.await_wire(self)
        return self.arrived.popleft()

    async def send(self, data: bytes) -> None:
        """Send input, once the program took what is on its way; somebody must be receiving."""
        while self._ahead >= WINDOW and not self.ended:
            self._passed_on = anyio.Event()
            await self._passed_on.wait()
        self._ahead += len(data)
        await self._channel.tell("input", self.number, data=data)

    async def tell(self, op: str, /, **fields: bytes) -> None:
        """Send ``input`` with ``eof``, ``more``, ``resize`` or ``signal``."""
        await self._channel.tell(op, self.number, **fields)
