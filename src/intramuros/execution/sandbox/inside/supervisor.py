"""Process 1 of a sandbox: reaps orphans and serves calls over one inherited socket.

It makes itself unreadable for the model's processes first, then waits for one ``configure`` frame,
answers ``ready`` and serves until the host closes the socket, which ends the sandbox. Operations::

    configure  workdir, roots, read_only, env, open_files, processes, file_bytes, address_space,
               data, filter
    bash       command, nonce, timeout_ms   → state, output, code, truncated
    restart                                 → (nothing)
    adopt      roots, read_only, env        → (nothing); a sandbox started ahead gets its session's
    tool       tool, then its own fields    → text, or media and data
    exec       argv, env, cwd, stdin, timeout_ms, limit → stdout, stderr, code, …
    open       argv, module, cwd, env, rows, columns → frames of a stream (streams.py)
    input      target, data, eof            → (no answer), as the next three
    more       target, count
    resize     target, rows, columns
    signal     target, number
    cancel     target                       → (no answer; that call's answer is dropped too)
    state      act, and its own fields      → see ``keep.py``

A call that cannot be served answers with ``error``, text for the model.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal, without its enums
import os
import resource
import struct
import sys

from intramuros.execution.sandbox.inside import frames, jobs
from intramuros.execution.sandbox.inside.hands import Hand
from intramuros.execution.sandbox.inside.loop import READ, WRITE, Loop
from intramuros.execution.sandbox.inside.paths import Policy, ToolError
from intramuros.execution.sandbox.inside.shell import Shell
from intramuros.execution.sandbox.inside.spawn import Spawner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from intramuros.execution.sandbox.inside.keep import Keep
    from intramuros.execution.sandbox.inside.streams import Stream

CPU_SECONDS = 30
WALL_SECONDS = 120.0
IDLE_SECONDS = 60.0
"""How long a tools' child waits for the next call; idle sandboxes are to be small."""
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP, _SECCOMP_FILTER, _BPF_BYTES = 22, 2, 8
_SIGXCPU = 24


def find_set_dumpable() -> Callable[[bool], None]:
    """Return a function that opens /proc/self/mem and ptrace to processes of our uid, or not.

    ``ctypes`` takes five milliseconds to import; its core is enough for one call.
    """
    import _ctypes

    program = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # None is this program itself
    prctl = _ctypes.dlsym(program, "prctl")

    def set_dumpable(wanted: bool) -> None:
        if _ctypes.call_function(prctl, (_PR_SET_DUMPABLE, int(wanted), 0, 0, 0)) != 0:
            raise OSError("prctl(PR_SET_DUMPABLE) failed")

    return set_dumpable


class Supervisor:
    """Everything process 1 knows."""

    def __init__(
        self, loop: Loop, channel: int, config: dict[str, bytes], spawner: Spawner
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._spawner = spawner
        self._reader = frames.Reader()
        self._outgoing = bytearray()
        self._env = jobs.parse_env(config["env"])
        self._workdir = os.fsdecode(config["workdir"])
        self._policy = Policy(self._workdir, _paths(config["roots"]), _paths(config["read_only"]))
        self._shell: Shell | None = None
        self._hand: Hand | None = None
        self._keep: Keep | None = None
        self._jobs: dict[bytes, jobs.Job] = {}
        self._commands: dict[bytes, Callable[[], None]] = {}
        self._streams: dict[bytes, Stream] = {}
        self._operations = {
            b"bash": self._bash,
            b"restart": self._restart,
            b"adopt": self._adopt,
            b"tool": self._tool,
            b"exec": self._exec,
            b"open": self._open,
            b"input": self._steer,
            b"more": self._steer,
            b"resize": self._steer,
            b"signal": self._steer,
            b"cancel": self._cancel,
            b"state": self._state,
        }
        os.environ.clear()  # noqa: TID251 - this process has no configuration; tools need PATH
        os.environb.update(self._env)

    def serve(self) -> None:
        """Answer ``ready`` and serve until the host goes away."""
        os.set_blocking(self._channel, False)
        self._loop.watch(self._channel, READ, self._readable)
        self._send({"id": b"0", "ready": b"%d" % os.getpid(), "python": sys.version.encode()})
        self._warm()
        while True:
            self._loop.once()

    def _warm(self) -> None:
        """Import now what the first file call would otherwise wait for."""
        from intramuros.execution.sandbox.inside import files

        self._tools = {b"read": files.read, b"write": files.write, b"edit": files.edit}

    def _readable(self, fd: int) -> None:
        try:
            data = os.read(fd, 1 << 18)
        except BlockingIOError:
            return
        if not data:
            os._exit(0)
        for call in self._reader.feed(data):
            self._dispatch(call)

    def _dispatch(self, call: dict[str, bytes]) -> None:
        try:
            self._operations[call["op"]](call)
        except OSError as error:
            self._send({"id": call["id"], "error": f"{_name(call)}: {error.strerror}".encode()})

    def _send(self, fields: dict[str, bytes]) -> None:
        self._outgoing += frames.encode(fields)
        self._flush(self._channel)

    def _flush(self, _fd: int) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: os.write(self._channel, self._outgoing[: 1 << 18])]
        except BlockingIOError:
            self._loop.watch(self._channel, READ | WRITE, self._ready)
            return
        except BrokenPipeError:
            os._exit(0)
        self._loop.watch(self._channel, READ, self._readable)

    def _ready(self, fd: int) -> None:
        self._flush(fd)
        self._readable(fd)

    def _bash(self, call: dict[str, bytes]) -> None:
        number = call["id"]
        if self._shell is None:
            self._shell = Shell(self._loop, self._spawner, self._workdir, self._shell_env())
        shell = self._shell
        if shell.closed:
            self._send({"id": number, "error": b"bash: bash session terminated; restart required"})
            return
        if shell.busy:
            self._send({"id": number, "error": b"bash: another command is still running"})
            return

        def answer(fields: dict[str, bytes]) -> None:
            if self._commands.pop(number, None) is not None:
                self._send({"id": number, **fields})

        self._commands[number] = shell.kill
        shell.run(call["command"], call["nonce"], int(call["timeout_ms"]) / 1000, answer)

    def _shell_env(self) -> dict[bytes, bytes]:
        return {**self._env, b"PS1": b"", b"PS2": b"", b"TERM": b"dumb"}

    def _restart(self, call: dict[str, bytes]) -> None:
        if self._shell is not None and not self._shell.closed:
            self._shell.kill()
        self._shell = Shell(self._loop, self._spawner, self._workdir, self._shell_env())
        self._send({"id": call["id"]})

    def _adopt(self, call: dict[str, bytes]) -> None:
        env = jobs.parse_env(call["env"])
        self._policy = Policy(self._workdir, _paths(call["roots"]), _paths(call["read_only"]))
        if env != self._env:
            if self._shell is not None and not self._shell.set_variables(self._env, env):
                self._shell.kill()
                self._shell = None
            self._env = env
            os.environ.clear()  # noqa: TID251 - as at the start
            os.environb.update(env)
        self._send({"id": call["id"]})

    def _tool(self, call: dict[str, bytes]) -> None:
        number, name = call["id"], call["tool"]
        if name not in self._tools:
            from intramuros.execution.sandbox.inside import search

            self._tools.update({b"glob": search.glob, b"grep": search.grep})
            self._rest()  # a child made before would have to import them, too
        hand = self._take_hand()
        fresh = hand is None
        if hand is None:
            hand = Hand(self._loop, self._spawner, self._run_tool, CPU_SECONDS)
        busy = hand

        def done(answer: dict[str, bytes]) -> None:
            self._commands.pop(number, None)
            if "died" in answer and not fresh and not {"begun", "timed_out"} & answer.keys():
                # It had been killed while it waited: nothing has happened yet.
                self._tool(call)
                return
            self._send({"id": number, **_tool_answer(name, answer)})
            self._keep_hand(busy)

        self._commands[number] = busy.kill
        busy.use(call, WALL_SECONDS, done)

    def _run_tool(self, call: dict[str, bytes]) -> dict[str, bytes]:
        """Run a tool; happens in a child."""
        try:
            return self._tools[call["tool"]](self._policy, call)
        except ToolError as error:
            return {"error": str(error).encode("utf-8", "replace")}

    def _take_hand(self) -> Hand | None:
        self._loop.disarm(self)
        hand, self._hand = self._hand, None
        return hand if hand is not None and hand.alive else None

    def _keep_hand(self, hand: Hand) -> None:
        """Keep a child for the next call, for a while; one is enough."""
        if not hand.alive:
            return
        if self._hand is not None:
            hand.kill()
            return
        self._hand = hand
        self._loop.alarm(self, IDLE_SECONDS, self._rest)

    def _rest(self) -> None:
        hand = self._take_hand()
        if hand is not None:
            hand.kill()

    def _exec(self, call: dict[str, bytes]) -> None:
        number = call["id"]

        def done(fields: dict[str, bytes]) -> None:
            if self._jobs.pop(number, None) is not None:
                self._send({"id": number, **fields})

        self._jobs[number] = jobs.run_program(self._loop, self._spawner, call, self._env, done)

    def _state(self, call: dict[str, bytes]) -> None:
        if self._keep is None:
            from intramuros.execution.sandbox.inside.keep import Keep

            self._keep = Keep(
                self._loop, self._spawner, self._env, self._own, lambda: self._shell, self._fresh
            )
        number = call["id"]
        self._keep.serve(call, lambda fields: self._send({"id": number, **fields}))

    def _own(self) -> list[int]:
        """Return the pids of our children that are nobody's background work."""
        return [self._hand.pid] if self._hand is not None and self._hand.alive else []

    def _fresh(self, script: bytes) -> Shell:
        """Put a new shell that is to run a script in the place of the one there is."""
        if self._shell is not None and not self._shell.closed:
            self._shell.kill()
        env = self._shell_env()
        self._shell = Shell(self._loop, self._spawner, self._workdir, env, script)
        return self._shell

    def _open(self, call: dict[str, bytes]) -> None:
        from intramuros.execution.sandbox.inside import streams

        number = call["id"]
        env = {**self._env, **jobs.parse_env(call.get("env", b""))}

        def send(fields: dict[str, bytes]) -> None:
            self._send({"id": number, **fields})

        stream = streams.open_stream(self._loop, self._spawner, call, env, send)
        self._streams[number] = stream
        stream.ended = lambda: self._drop(number)
        stream.start()

    def _drop(self, number: bytes) -> None:
        self._streams.pop(number, None)

    def _steer(self, call: dict[str, bytes]) -> None:
        stream = self._streams.get(call["target"])
        if stream is None:
            return  # it has just ended
        if call["op"] == b"input":
            stream.take(call.get("data", b""), eof="eof" in call)
        elif call["op"] == b"more":
            stream.more(int(call["count"]))
        elif call["op"] == b"resize":
            stream.resize(int(call["rows"]), int(call["columns"]))
        else:
            stream.signal(int(call["number"]))

    def _cancel(self, call: dict[str, bytes]) -> None:
        job = self._jobs.pop(call["target"], None)
        if job is not None:
            job.kill()
        stream = self._streams.pop(call["target"], None)
        if stream is not None:
            stream.kill()
        stop = self._commands.pop(call["target"], None)
        if stop is not None:
            stop()


def _name(call: dict[str, bytes]) -> str:
    return call.get("tool", call["op"]).decode()


def _paths(raw: bytes) -> list[str]:
    return [os.fsdecode(path) for path in raw.split(b"\0") if path]


def _tool_answer(name: bytes, answer: dict[str, bytes]) -> dict[str, bytes]:
    """Return what the child answered, or why it could not."""
    if "died" not in answer:
        return answer
    tool, status = name.decode(), int(answer["died"])
    if "timed_out" in answer:
        return {"error": f"{tool}: timed out after {WALL_SECONDS:g}s".encode()}
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == _SIGXCPU:
        return {"error": f"{tool}: timed out after {CPU_SECONDS}s".encode()}
    return {"error": f"{tool}: the tool's process ended early (out of memory?)".encode()}


def _read_config(channel: int) -> dict[str, bytes]:
    reader = frames.Reader()
    while True:
        data = os.read(channel, 65536)
        if not data:
            os._exit(0)
        for call in reader.feed(data):
            if call.get("op") == b"configure":
                return call


def install_filter(program: bytes) -> None:
    """Filter this process's system calls, and its children's, for good.

    Args:
        program: classic BPF, as ``bwrap --seccomp`` takes it.

    Raises:
        OSError: the kernel refuses.
    """
    import _ctypes

    # struct sock_fprog. Bytes go over as a pointer to them, but what is in them does not.
    address = id(program) + bytes.__basicsize__ - 1
    described = struct.pack("@HP", len(program) // _BPF_BYTES, address)
    prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]  # as above
    if _ctypes.call_function(prctl, (_PR_SET_SECCOMP, _SECCOMP_FILTER, described)) != 0:
        raise OSError("prctl(PR_SET_SECCOMP) failed")


def apply_limits(config: dict[str, bytes]) -> None:
    """Set the limits every process here inherits; none can be raised again without privilege."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: int(config["open_files"]),
        resource.RLIMIT_NPROC: int(config["processes"]),
        resource.RLIMIT_FSIZE: int(config["file_bytes"]),
        resource.RLIMIT_AS: int(config["address_space"]),
        resource.RLIMIT_DATA: int(config.get("data", b"-1")),
    }
    for which, value in wanted.items():
        hard = resource.getrlimit(which)[1]
        if value >= 0 and (hard == resource.RLIM_INFINITY or value < hard):
            resource.setrlimit(which, (value, value))


def main(channel: int) -> None:
    """Run process 1 on an inherited socket."""
    set_dumpable = find_set_dumpable()
    set_dumpable(False)
    # Without this a SIGINT from inside would raise in here; at default, process 1 ignores it.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    os.set_inheritable(channel, False)
    config = _read_config(channel)
    apply_limits(config)
    if config.get("filter"):
        install_filter(config["filter"])
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    spawner = Spawner(int(config["open_files"]), set_dumpable)
    Supervisor(Loop(), channel, config, spawner).serve()
