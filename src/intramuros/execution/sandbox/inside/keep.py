"""What hibernation asks of process 1: its files as a stream, and the shell's state as a script.

One operation, ``state``, with ``act``::

    save    roots (label=path)      start to pack; everything else inside stands still meanwhile
    pull                            → data; after the last: end, processes, sockets, entries, …
    load    roots, limit            start to unpack
    push    data, last (optional)   → (nothing); after the last: end, entries, …
    drop                            give up what was started
    tell    nonce, timeout_ms       → script (what a new shell must run), jobs, lost; or none
    adopt   script, nonce, timeout_ms  a new shell that ran it → output, code
"""

from __future__ import annotations

import os

from intramuros.execution.sandbox.inside import pack, stillness
from intramuros.execution.sandbox.inside.flow import Flow
from intramuros.execution.sandbox.inside.telling import TELL, retell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from intramuros.execution.sandbox.inside.loop import Loop
    from intramuros.execution.sandbox.inside.shell import Shell
    from intramuros.execution.sandbox.inside.spawn import Spawner

    Fields = dict[str, bytes]
    Answer = Callable[[Fields], None]


_MAX_JOBS = 64 * 1024


class Keep:
    """Serves the operation.

    Args:
        env: what every shell here starts with.
        own: returns the pids of our own children, which are nobody's background work.
        shell: returns the shell, if one was started and lives.
        fresh: puts a new shell with a script in its place, and returns it.
    """

    def __init__(
        self,
        loop: Loop,
        spawner: Spawner,
        env: dict[bytes, bytes],
        own: Callable[[], list[int]],
        shell: Callable[[], Shell | None],
        fresh: Callable[[bytes], Shell],
    ) -> None:
        self._loop = loop
        self._spawner = spawner
        self._env = env
        self._own = own
        self._shell = shell
        self._fresh = fresh
        self._flow: Flow | None = None
        self._held: list[int] = []

    def serve(self, call: Fields, answer: Answer) -> None:
        """Serve one call."""
        acts = {
            b"save": self._save,
            b"pull": self._pull,
            b"load": self._load,
            b"push": self._push,
            b"drop": self._drop,
            b"tell": self._tell,
            b"adopt": self._adopt,
        }
        acts[call["act"]](call, answer)

    def _begin(self, work: Callable[[int], Fields], *, outward: bool) -> None:
        if self._flow is not None:
            self._flow.kill()
        self._flow = Flow(self._loop, self._spawner, work, outward=outward)

    def _save(self, call: Fields, answer: Answer) -> None:
        roots = _roots(call["roots"])
        own = self._own()
        shell = self._shell()
        shell_pid = None if shell is None else shell.pid
        self._held = stillness.hold()
        try:
            self._begin(lambda fd: _pack(fd, roots, own, shell_pid), outward=True)
        except OSError:
            self._release()
            raise
        answer({})

    def _pull(self, _call: Fields, answer: Answer) -> None:
        if self._flow is None:
            answer({"error": b"nothing is being saved"})
            return

        def done(fields: Fields) -> None:
            if "end" in fields:
                self._release()
            answer(fields)

        self._flow.pull(done)

    def _load(self, call: Fields, answer: Answer) -> None:
        roots, limit = _roots(call["roots"]), int(call["limit"])
        self._begin(lambda fd: _unpack(fd, roots, limit), outward=False)
        answer({})

    def _push(self, call: Fields, answer: Answer) -> None:
        if self._flow is None:
            answer({"error": b"nothing is being restored"})
        else:
            self._flow.push(call["data"], "last" in call, answer)

    def _drop(self, _call: Fields, answer: Answer) -> None:
        if self._flow is not None:
            self._flow.kill()
            self._flow = None
        self._release()
        answer({})

    def _release(self) -> None:
        stillness.release(self._held)
        self._held = []

    def _tell(self, call: Fields, answer: Answer) -> None:
        shell = self._shell()
        if shell is None or shell.closed:
            answer({"none": b"1"})
            return
        if shell.busy:
            answer({"error": b"a command is still running"})
            return
        descriptors = stillness.descriptors(shell.pid)

        def told(report: bytes) -> None:
            script, lost, jobs = retell(report, self._env)
            lost += [f"the shell's open file {line}" for line in descriptors]
            answer(
                {
                    "script": script,
                    "jobs": jobs[:65536],
                    "lost": "\0".join(lost).encode("utf-8", "replace"),
                }
            )

        shell.tell(TELL, call["nonce"], int(call["timeout_ms"]) / 1000, told)

    def _adopt(self, call: Fields, answer: Answer) -> None:
        self._fresh(call["script"]).adopt(call["nonce"], int(call["timeout_ms"]) / 1000, answer)


def _pack(fd: int, roots: dict[bytes, bytes], own: list[int], shell: int | None) -> Fields:
    """Write the roots to ``fd``; happens in a child."""

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    packer = pack.Packer(write, pack.mount_points())
    try:
        packer.pack(roots)
    except pack.PackError as error:
        return {"error": str(error).encode("utf-8", "replace")}
    except OSError as error:
        return {"error": (error.strerror or "unreadable").lower().encode()}
    return {
        "entries": b"%d" % packer.entries,
        "bytes": b"%d" % packer.data_bytes,
        "sockets": "\0".join(packer.sockets).encode("utf-8", "replace"),
        "processes": stillness.processes({*own, os.getpid()}, shell),
    }


def _unpack(fd: int, roots: dict[bytes, bytes], limit: int) -> Fields:
    """Fill the roots from ``fd``; happens in a child."""
    unpacker = pack.Unpacker(lambda count: os.read(fd, count), roots, limit)
    try:
        unpacker.unpack()
    except pack.PackError as error:
        return {"error": str(error).encode("utf-8", "replace")}
    except OSError as error:
        return {"error": (error.strerror or "unwritable").lower().encode()}
    return {
        "entries": b"%d" % unpacker.entries,
        "attributes_lost": b"%d" % unpacker.attributes_lost,
    }


def _roots(raw: bytes) -> dict[bytes, bytes]:
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if entry)
    return {label: path for label, _, path in pairs}
