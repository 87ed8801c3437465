"""A local socket by which operators of this host pause sessions and look after snapshots.

The worker has no inbound port, and the control plane no say over what lies inside the wall: who may
do this is who may be the worker, on its own machine. One JSON object a line each way; the socket is
the worker's user's alone, and whose process asks is checked and recorded before anything is done.

    {"do": "pause", "session": "sesn_…"}  →  {"ok": {…}} or {"error": "…"}
"""

import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from intramuros.execution.record import Record, RecordFailed
from intramuros.execution.sandbox.base import SandboxError
from intramuros.execution.snapshots.sealed import Damaged
from intramuros.execution.snapshots.shelf import ShelfError
from intramuros.kernel.errors import DomainError, OperatorError
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger

log = logger("desk")

SOCKET: Final = "desk/socket"
MAX_REQUEST_BYTES: Final = 64 * 1024
REQUEST_S: Final = 30.0
ACT_S: Final = 600.0
MAX_CLIENTS: Final = 8
_UCRED: Final = struct.Struct("3i")

Request = Mapping[str, Any]
Act = Callable[[Request], Awaitable[object]]


class BadRequest(DomainError):
    """The request has not the form that it must have."""


class Desk:
    """Serves requests on one socket.

    Args:
        acts: what can be asked for, by name; each is recorded as ``desk.<name>`` before it is done.
        silent: names of those that change nothing.
    """

    def __init__(
        self, path: Path, acts: Mapping[str, Act], record: Record, silent: frozenset[str]
    ) -> None:
        self._path = path
        self._acts = acts
        self._record = record
        self._silent = silent
        self._slots = anyio.Semaphore(MAX_CLIENTS)

    async def serve(self, stop: Stop) -> None:
        """Answer until the stop."""
        with listen(self._path) as listening:
            async with anyio.create_task_group() as group:

                async def accept() -> None:
                    while True:
                        async with self._slots:
                            pass
                        await anyio.wait_readable(listening)
                        with suppress(BlockingIOError):
                            accepted, _ = listening.accept()
                            await self._slots.acquire()
                            group.start_soon(self._client, accepted)

                group.start_soon(accept)
                await stop.wait()
                group.cancel_scope.cancel()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    async def _client(self, accepted: socket.socket) -> None:
        try:
            uid = peer_uid(accepted)
            stream = await SocketStream.from_socket(accepted)
            async with stream:
                with anyio.move_on_after(ACT_S):
                    answer = await self._answer(stream, uid)
                    await stream.send(json.dumps(answer).encode() + b"\n")
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            log.info("desk_client_left", error=str(error))
        finally:
            accepted.close()
            self._slots.release()

    async def _answer(self, stream: SocketStream, uid: int) -> dict[str, object]:
        if uid not in (0, os.geteuid()):
            return {"error": "only root and the worker's own user may ask"}
        try:
            with anyio.fail_after(REQUEST_S):
                line = await BufferedByteReceiveStream(stream).receive_until(
                    b"\n", MAX_REQUEST_BYTES
                )
            request = json.loads(line)
            if not isinstance(request, dict) or request.get("do") not in self._acts:
                raise BadRequest(f"ask for one of {', '.join(sorted(self._acts))}")
            name = str(request["do"])
            if name not in self._silent:
                said = {k: v for k, v in request.items() if k != "do" and isinstance(v, str)}
                await self._record.write(f"desk.{name}", by_uid=uid, **said)
            return {"ok": await self._acts[name](request)}
        except OperatorError as error:
            return {"error": f"{error.problem}: {error.fix}"}
        except (DomainError, SandboxError, ShelfError, Damaged, RecordFailed) as error:
            return {"error": str(error)}
        except (ValueError, TimeoutError, anyio.DelimiterNotFound, anyio.IncompleteRead):
            return {"error": "no request that can be read came in time"}
        except Exception:
            log.exception("act_failed")
            return {"error": "it failed inside the worker; its log says how"}


def text(request: Request, name: str, *, needed: bool = True) -> str:
    """Return a text of a request.

    Raises:
        BadRequest: it is missing, or no text, or too long.
    """
    value = request.get(name, "")
    if not isinstance(value, str) or len(value) > 200 or (needed and not value):
        raise BadRequest(f"{name!r} must be a text of 1 to 200 characters")
    return value


def listen(path: Path) -> socket.socket:
    """Return a listening socket that only this user can reach.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    try:
        _through(path, listening.bind)
        path.chmod(0o600)
        listening.listen(MAX_CLIENTS)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def ask(path: Path, request: Request, timeout_s: float = ACT_S) -> object:
    """Ask a worker's desk and return its answer; blocks.

    Raises:
        OperatorError: no worker answers there.
        DomainError: it refused.
    """
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(timeout_s)
        try:
            _through(path, asking.connect)
            asking.sendall(json.dumps(dict(request)).encode() + b"\n")
            with asking.makefile("rb") as answers:
                answer = json.loads(answers.readline())
        except (OSError, ValueError) as error:
            raise OperatorError(
                f"no worker answers at {path}",
                "name the state directory of a running worker with --state-dir",
            ) from error
    if "error" in answer:
        raise DomainError(str(answer["error"]))
    return answer.get("ok")


def _through(path: Path, use: Callable[[str], object]) -> None:
    """Use a socket's path by way of its directory: the kernel takes short paths only."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def peer_uid(connected: socket.socket) -> int:
    """Return the uid of the process at the other end."""
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(raw)[1])
