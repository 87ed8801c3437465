"""Single programs, each in a child of its own: one that is killed or hangs harms no other call."""

from __future__ import annotations

import os

from intramuros.execution.sandbox.inside.loop import READ, WRITE, Loop, exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from intramuros.execution.sandbox.inside.spawn import Spawner

    Answer = Callable[[dict[str, bytes]], None]

_SIGKILL = 9


class Job:
    """One child, the bytes going in and the bytes coming out of it.

    Args:
        outputs: our ends of its pipes, by the field they fill.
        limit: bytes kept of each; the rest is read and dropped.
        done: gets the fields, ``code`` and, where they apply, ``truncated`` and ``timed_out``.
    """

    def __init__(self, loop: Loop, pid: int, outputs: dict[int, str], limit: int) -> None:
        self._loop = loop
        self.pid = pid
        self._names = outputs
        self._limit = limit
        self._data = {name: bytearray() for name in outputs.values()}
        self._flags: dict[str, bytes] = {}
        self._open = set(outputs)
        self._input = bytearray()
        self._status: int | None = None
        self._done: Answer | None = None

    def start(self, timeout_s: float, done: Answer) -> None:
        """Watch the child until it ended and its pipes are read, or time is up."""
        self._done = done
        for fd in self._names:
            os.set_blocking(fd, False)
            self._loop.watch(fd, READ, self._read)
        self._loop.on_exit(self.pid, self._exited)
        self._loop.alarm(self, timeout_s, self._timed_out)

    def feed(self, fd: int, data: bytes) -> None:
        """Write ``data`` to our end ``fd`` of the child's standard input, then close it."""
        self._input += data
        os.set_blocking(fd, False)
        self._loop.watch(fd, WRITE, self._write)

    def kill(self) -> None:
        """End the child and its process group."""
        try:
            os.killpg(self.pid, _SIGKILL)
        except ProcessLookupError:
            pass  # it has not come as far as having a group, or nobody of it is left
        if self._status is None:
            os.kill(self.pid, _SIGKILL)

    def _write(self, fd: int) -> None:
        try:
            del self._input[: os.write(fd, self._input[:65536])]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._input.clear()
        if not self._input:
            self._loop.unwatch(fd)
            os.close(fd)

    def _read(self, fd: int) -> None:
        try:
            chunk = os.read(fd, 1 << 18)
        except BlockingIOError:
            return
        if not chunk:
            self._shut(fd)
            self._maybe_finish()
            return
        data = self._data[self._names[fd]]
        room = self._limit - len(data)
        if len(chunk) > room:
            self._flags["truncated"] = b"1"
            chunk = chunk[:room]
        data += chunk

    def _shut(self, fd: int) -> None:
        self._open.discard(fd)
        self._loop.unwatch(fd)
        os.close(fd)

    def _exited(self, status: int) -> None:
        self._status = status
        # A background child may keep the pipes open for ever: take what is there and stop.
        for fd in list(self._open):
            while fd in self._open and self._more(fd):
                pass
            if fd in self._open:
                self._shut(fd)
        self._maybe_finish()

    def _more(self, fd: int) -> bool:
        before = len(self._data[self._names[fd]])
        self._read(fd)
        return fd in self._open and len(self._data[self._names[fd]]) > before

    def _timed_out(self) -> None:
        self._flags["timed_out"] = b"1"
        self.kill()

    def _maybe_finish(self) -> None:
        if self._status is None or self._open or self._done is None:
            return
        done, self._done = self._done, None
        self._loop.disarm(self)
        self.kill()
        answer = {name: bytes(data) for name, data in self._data.items()}
        answer["code"] = b"%d" % exit_code(self._status)
        done({**answer, **self._flags})


def run_program(
    loop: Loop, spawner: Spawner, call: dict[str, bytes], env: dict[bytes, bytes], done: Answer
) -> Job:
    """Start one program.

    Fields: ``argv`` and ``env`` (NUL-separated, the latter added to ours), ``cwd``, ``stdin``,
    ``timeout_ms``, ``limit``.

    Raises:
        OSError: no process could be made.
    """
    argv = [os.fsdecode(word) for word in call["argv"].split(b"\0")]
    merged = {**env, **parse_env(call.get("env", b""))}
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    try:
        pid = spawner.spawn(
            argv,
            cwd=os.fsdecode(call["cwd"]),
            env=merged,
            fds={0: in_read, 1: out_write, 2: err_write},
        )
    except OSError:
        for fd in (in_write, out_read, err_read):
            os.close(fd)
        raise
    finally:
        for fd in (in_read, out_write, err_write):
            os.close(fd)
    job = Job(loop, pid, {out_read: "stdout", err_read: "stderr"}, int(call["limit"]))
    job.feed(in_write, call.get("stdin", b""))
    job.start(int(call["timeout_ms"]) / 1000, done)
    return job


def parse_env(raw: bytes) -> dict[bytes, bytes]:
    """Return the mapping of NUL-separated ``name=value`` entries."""
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}
