"""Programs whose input and output travel as they come: a person's shell, file transfer, a tunnel.

Neither side sends more than a window ahead of what the other has taken, so that a program that
prints for ever waits for its reader and process 1 stays small. Frames to the host, with the id of
the ``open`` they belong to::

    out, err   bytes that the program wrote
    taken      how many bytes of its input were passed on
    code       its exit status; the last one
"""

from __future__ import annotations

import fcntl
import os
import sys

from intramuros.execution.sandbox.inside.loop import READ, WRITE, Loop, exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from intramuros.execution.sandbox.inside.spawn import Spawner

    Fields = dict[str, bytes]

WINDOW = 256 * 1024
_CHUNK = 32 * 1024
_SIGKILL = 9
_TIOCSWINSZ = 0x5414
_LIBRARY = "/opt/intramuros"
_RUN = "import sys; sys.path.append({!r}); from {}.{} import main; main(sys.argv[1:])"


class Stream:
    """One running program.

    Args:
        send: takes a frame without its id.
        ended: called once, after the last frame.
    """

    def __init__(
        self, loop: Loop, pid: int, fds: dict[str, int], send: Callable[[Fields], None]
    ) -> None:
        self._loop = loop
        self.pid = pid
        self._in: int | None = fds["in"]
        self._outs = {fds[name]: name for name in ("out", "err") if name in fds}
        self._terminal = fds["in"] == fds["out"]
        self._send = send
        self._credit = WINDOW
        self._input = bytearray()
        self._eof = False
        self._status: int | None = None
        self._over = False
        self.ended: Callable[[], None] = _nothing

    def start(self) -> None:
        """Watch the program from now on."""
        for fd in {self._in, *self._outs}:
            if fd is not None:
                os.set_blocking(fd, False)
        self._loop.on_exit(self.pid, self._exited)
        self._watch()

    def take(self, data: bytes, *, eof: bool) -> None:
        """Pass input on to the program; ``eof`` closes it after that."""
        self._input += data
        self._eof = self._eof or eof
        self._write()
        self._watch()

    def more(self, count: int) -> None:
        """The host has taken so many bytes: go on."""
        self._credit += count
        if not self._over:
            self._read()
            self._watch()

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the program's terminal, if it has one."""
        if self._terminal and self._in is not None:
            set_size(self._in, rows, columns)

    def signal(self, number: int) -> None:
        """Send a signal to the program and what it started in its group."""
        if self._status is None:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        """End the program; nothing is sent any more. Idempotent."""
        if self._over:
            return
        self._over = True
        self.signal(_SIGKILL)
        if self._status is None:
            os.kill(self.pid, _SIGKILL)
        self._close()

    def _watch(self) -> None:
        """Say what is waited for now; a terminal is read and written by one descriptor."""
        if self._over:
            return
        wanted = dict.fromkeys(self._outs, READ if self._credit > 0 else 0)
        if self._in is not None and self._input:
            wanted[self._in] = wanted.get(self._in, 0) | WRITE
        for fd in {*self._outs, *([] if self._in is None else [self._in])}:
            if wanted.get(fd):
                self._loop.watch(fd, wanted[fd], self._ready)
            else:
                self._loop.unwatch(fd)

    def _ready(self, _fd: int) -> None:
        if self._input:
            self._write()
        self._read()
        self._watch()

    def _write(self) -> None:
        if self._in is None:
            self._input.clear()
            return
        written = 0
        try:
            while self._input:
                count = os.write(self._in, self._input[:_CHUNK])
                del self._input[:count]
                written += count
        except BlockingIOError:
            pass
        except OSError:
            # It reads no more: what comes is dropped, as in a pipe to a program that ended.
            written += len(self._input)
            self._input.clear()
        if written:
            self._send({"taken": b"%d" % written})
        if self._eof and not self._input:
            self._close_input()

    def _close_input(self) -> None:
        if self._in is None:
            return
        if self._terminal:
            self._eof = False
            try:
                os.write(self._in, b"\x04")
            except OSError:
                pass
            return
        self._loop.unwatch(self._in)
        os.close(self._in)
        self._in = None

    def _read(self) -> None:
        """Send what is there, as far as the host takes it; after the program's end, finish."""
        waiting = False
        for fd, name in list(self._outs.items()):
            while self._credit > 0:
                try:
                    data = os.read(fd, min(_CHUNK, self._credit))
                except BlockingIOError:
                    break
                except OSError:
                    data = b""  # nobody has the terminal open any more
                if not data:
                    self._shut(fd)
                    break
                self._credit -= len(data)
                self._send({name: data})
            else:
                waiting = True
        if self._status is not None and not waiting:
            self._finish()

    def _shut(self, fd: int) -> None:
        del self._outs[fd]
        self._loop.unwatch(fd)
        if fd == self._in:
            self._in = None
        os.close(fd)

    def _exited(self, status: int) -> None:
        self._status = status
        if not self._over:
            self._read()
            self._watch()

    def _finish(self) -> None:
        if self._over or self._status is None:
            return
        self._over = True
        self._close()
        self._send({"code": b"%d" % exit_code(self._status)})
        self.ended()

    def _close(self) -> None:
        for fd in {*self._outs, *([] if self._in is None else [self._in])}:
            self._loop.unwatch(fd)
            os.close(fd)
        self._outs, self._in = {}, None
        self._input.clear()


def open_stream(
    loop: Loop,
    spawner: Spawner,
    call: Fields,
    env: dict[bytes, bytes],
    send: Callable[[Fields], None],
) -> Stream:
    """Start a program.

    Fields: ``argv`` (NUL-separated; with ``module`` the arguments of one of our own programs),
    ``cwd``, ``rows`` and ``columns`` for a terminal.

    Raises:
        OSError: no process could be made.
    """
    argv = [os.fsdecode(word) for word in call["argv"].split(b"\0")] if call["argv"] else []
    if "module" in call:
        package = __name__.rpartition(".")[0]
        program = _RUN.format(_LIBRARY, package, call["module"].decode())
        argv = [sys.executable, "-S", "-E", "-I", "-B", "-X", "utf8", "-c", program, *argv]
    cwd = os.fsdecode(call["cwd"])
    if "rows" in call:
        ours, theirs = os.openpty()
        set_size(ours, int(call["rows"]), int(call["columns"]))
        inside = {0: theirs, 1: theirs, 2: theirs}
        kept = {"in": ours, "out": ours}
    else:
        (in_read, in_write), (out_read, out_write), (err_read, err_write) = (
            os.pipe(),
            os.pipe(),
            os.pipe(),
        )
        inside = {0: in_read, 1: out_write, 2: err_write}
        kept = {"in": in_write, "out": out_read, "err": err_read}
    try:
        pid = spawner.spawn(argv, cwd=cwd, env=env, fds=inside, terminal="rows" in call)
    except OSError:
        for fd in set(kept.values()):
            os.close(fd)
        raise
    finally:
        for fd in set(inside.values()):
            os.close(fd)
    return Stream(loop, pid, kept, send)


def set_size(terminal: int, rows: int, columns: int) -> None:
    """Set the size of a terminal, in characters."""
    numbers = (rows, columns, 0, 0)
    packed = b"".join(min(max(n, 0), 65535).to_bytes(2, sys.byteorder) for n in numbers)
    fcntl.ioctl(terminal, _TIOCSWINSZ, packed)


def _nothing() -> None:
    """Until somebody wants to know."""
