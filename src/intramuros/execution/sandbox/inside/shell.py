"""The persistent shell behind the bash tool (contract 23.3 to 23.8).

Bash reads its commands from a pipe. Each is wrapped in a group whose standard input is /dev/null
and whose errors join its output; after it, bash writes ``<nonce> <status>`` to a descriptor that is
closed inside the group. So neither the command nor its children hold that descriptor, and nothing
they print can be taken for the end of the command.
"""

from __future__ import annotations

import os

from intramuros.execution.sandbox.inside.loop import READ, WRITE, Loop, exit_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from intramuros.execution.sandbox.inside.spawn import Spawner

MAX_OUTPUT = 100 * 1024
"""The last bytes that are kept."""
_REPORT_FD = 200
_DRAIN_LIMIT = 1024 * 1024
"""What is read after a command's end at most; a background job may print for ever."""
MAX_REPORT = 4 * 1024 * 1024
"""What a shell may say of its own state."""
_SCRIPT_FD = 201
_BASH = ["/bin/bash", "--noprofile", "--norc"]
_SIGKILL = 9


class Shell:
    """One bash process and the command it is running, if any."""

    def __init__(
        self,
        loop: Loop,
        spawner: Spawner,
        cwd: str,
        env: dict[bytes, bytes],
        script: bytes | None = None,
    ) -> None:
        """Start bash; ``script`` is what :meth:`adopt` makes it run first."""
        self._loop = loop
        self._told: Callable[[bytes], None] | None = None
        self._answer: Callable[[dict[str, bytes]], None] | None = None
        self._nonce = b""
        self._output = bytearray()
        self._truncated = False
        self._status = bytearray()
        self.closed = False
        stdin_read, self._stdin = os.pipe()
        self._stdout, stdout_write = os.pipe()
        self._report, report_write = os.pipe()
        ours = (self._stdin, self._stdout, self._report)
        fds = {0: stdin_read, 1: stdout_write, 2: stdout_write, _REPORT_FD: report_write}
        given = None if script is None else _held(script)
        if given is not None:
            fds[_SCRIPT_FD] = given
        try:
            self.pid = spawner.spawn(_BASH, cwd=cwd, env=env, fds=fds)
        except OSError:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in (stdin_read, stdout_write, report_write):
                os.close(fd)
            if given is not None:
                os.close(given)
        for fd in ours:
            os.set_blocking(fd, False)
        loop.on_exit(self.pid, self._exited)
        loop.watch(self._report, READ, self._read_report)
        self._pending = bytearray()

    def run(
        self,
        command: bytes,
        nonce: bytes,
        timeout_s: float,
        answer: Callable[[dict[str, bytes]], None],
    ) -> None:
        """Start a command; ``answer`` gets ``state`` (done, died, timeout), ``output``, ``code``.

        Args:
            nonce: hexadecimal, never used before in this shell.
        """
        self._answer, self._nonce = answer, nonce
        self._output.clear()
        self._truncated = False
        self._pending += b"{ %s\n} </dev/null 2>&1 %d>&-; printf '%%s %%d\\n' %s $? >&%d\n" % (
            command,
            _REPORT_FD,
            nonce,
            _REPORT_FD,
        )
        self._loop.watch(self._stdout, READ, self._read_output)
        self._loop.alarm(self, max(timeout_s, 0.0), self._timed_out)
        self._push(self._stdin)

    def set_variables(self, old: dict[bytes, bytes], new: dict[bytes, bytes]) -> bool:
        """Change an idle shell's environment; False where bash cannot have such names."""
        changed = {name: value for name, value in new.items() if old.get(name) != value}
        gone = old.keys() - new.keys()
        if self.closed or not all(_is_name(name) for name in (*changed, *gone)):
            return False
        for name, value in changed.items():
            quoted = value.replace(b"'", b"'\\''")
            self._pending += b"export %s='%s'\n" % (name, quoted)
        for name in gone:
            self._pending += b"unset %s\n" % name
        self._push(self._stdin)
        return True

    def adopt(
        self, nonce: bytes, timeout_s: float, answer: Callable[[dict[str, bytes]], None]
    ) -> None:
        """Run the script that it was started with; what it prints are complaints."""
        script = b". /dev/fd/%d\nexec %d<&-" % (_SCRIPT_FD, _SCRIPT_FD)
        self.run(script, nonce, timeout_s, answer)

    def tell(
        self, script: bytes, nonce: bytes, timeout_s: float, told: Callable[[bytes], None]
    ) -> None:
        """Run a script that writes a report to descriptor 200; empty when it does not end well.

        A shell that does not answer in time is killed: nothing else can be had from it either.
        """

        def over(_fields: dict[str, bytes]) -> None:
            report, self._told = self._told, None
            if report is not None:
                report(b"")

        self._told = told
        self._answer, self._nonce = over, nonce
        self._status.clear()
        self._pending += b"{ %s\n} </dev/null >/dev/null 2>&1; printf '%%s 0\\n' %s >&%d\n" % (
            script,
            nonce,
            _REPORT_FD,
        )
        self._loop.alarm(self, max(timeout_s, 0.0), self._timed_out)
        self._push(self._stdin)

    @property
    def busy(self) -> bool:
        """Whether a command is running."""
        return self._answer is not None

    def kill(self) -> None:
        """End bash and everything in its process group."""
        try:
            os.killpg(self.pid, _SIGKILL)
        except ProcessLookupError:
            pass
        self._close()

    def _push(self, fd: int) -> None:
        try:
            written = os.write(fd, self._pending)
        except BlockingIOError:
            written = 0
        except BrokenPipeError:
            written = len(self._pending)
        del self._pending[:written]
        if self._pending:
            self._loop.watch(fd, WRITE, self._push)
        else:
            self._loop.unwatch(fd)

    def _read_output(self, fd: int) -> None:
        self._take(fd)

    def _take(self, fd: int) -> int:
        """Read once; return how many bytes came, 0 when there are none or the pipe is closed."""
        try:
            chunk = os.read(fd, 65536)
        except BlockingIOError:
            return 0
        if not chunk:
            self._loop.unwatch(fd)
            return 0
        self._output += chunk
        if len(self._output) > MAX_OUTPUT:
            del self._output[: len(self._output) - MAX_OUTPUT]
            self._truncated = True
        return len(chunk)

    def _read_report(self, fd: int) -> None:
        try:
            chunk = os.read(fd, 4096)
        except BlockingIOError:
            return
        if not chunk:
            self._loop.unwatch(fd)
            return
        self._status += chunk
        if self._told is not None:
            self._collect()
            return
        *lines, rest = self._status.split(b"\n")
        self._status = rest[-256:]
        for line in lines:
            nonce, _, code = line.partition(b" ")
            if self._answer is not None and nonce == self._nonce and code.isdigit():
                self._finish(b"done", bytes(code))

    def _collect(self) -> None:
        """Pass the report on once it is whole."""
        end = b"%s 0\n" % self._nonce
        if self._status.endswith(end):
            report, self._told = self._told, None
            said = bytes(self._status[: -len(end)])
            self._status.clear()
            self._finish(b"done", b"0")
            if report is not None:
                report(said)
        elif len(self._status) > MAX_REPORT:
            self._timed_out()

    def _finish(self, state: bytes, code: bytes) -> None:
        answer, self._answer = self._answer, None
        self._loop.disarm(self)
        drained = 0
        while drained < _DRAIN_LIMIT:
            count = self._take(self._stdout)
            if count == 0:
                break
            drained += count
        # Between commands nobody reads: a background job that prints a lot waits, as in a terminal.
        self._loop.unwatch(self._stdout)
        if answer is not None:
            cut = b"1" if self._truncated else b""
            answer({"state": state, "code": code, "output": bytes(self._output), "truncated": cut})
        self._output.clear()

    def _timed_out(self) -> None:
        self._finish(b"timeout", b"")
        self.kill()

    def _exited(self, status: int) -> None:
        if self._answer is not None:
            self._finish(b"died", b"%d" % exit_code(status))
        self._close()

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self._answer is not None:
            self._finish(b"died", b"")
        for fd in (self._stdin, self._stdout, self._report):
            self._loop.unwatch(fd)
            os.close(fd)


def _is_name(name: bytes) -> bool:
    """Return whether bash can have a variable of this name."""
    return name.isascii() and name.decode().isidentifier()


def _held(script: bytes) -> int:
    """Return a descriptor to read a script from."""
    fd = os.memfd_create("script")
    view = memoryview(script)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
