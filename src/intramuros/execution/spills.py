"""Long results of MCP servers, laid out in the sandbox before the next call there.

The server keeps them (``/x/sessions/{id}/spills``); a server that knows no such thing is asked
once. Whatever goes wrong leaves the file out and the call goes on: the model then sees that it is
missing, and may ask again.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

import anyio
import httpx2

from intramuros.execution.client import Away, ControlPlaneError, Refused, Work
from intramuros.execution.hands import Hands
from intramuros.execution.hosted_client import checked, mapped
from intramuros.execution.record import INWARD, Record, RecordFailed
from intramuros.execution.sandbox.base import SandboxError
from intramuros.execution.server import Server
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger
from intramuros.protocol.spills import MAX_FILE_BYTES, place

log = logger("spills")

_TIMEOUT: Final = httpx2.Timeout(30.0, connect=10.0)
_MAX_LIST_BYTES: Final = 256 * 1024
# Of all files of one call: fetching and writing them.
_LIMIT_S: Final = 60.0
_TROUBLE: Final = (
    ControlPlaneError,
    SandboxError,
    OperatorError,
    RecordFailed,
    TimeoutError,
)
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Spill:
    """A result that the server keeps: the call's id, its size in bytes, and its SHA-256 in hex."""

    use_id: str
    size: int
    sha256: str


class SpillClient:
    """What one work item may read of its session's long results.

    Args:
        server: that handed the item out.
        work: the item; it has a token of its own.
    """

    def __init__(self, server: Server, work: Work) -> None:
        self.session_id = work.session_id
        self._http = server.client(
            f"/x/sessions/{work.session_id}", {"authorization": f"Bearer {work.token}"}, _TIMEOUT
        )

    async def find(self) -> list[Spill]:
        """Return what there is, oldest first.

        Raises:
            Refused: the server has no such thing.
            Away: not now.
        """
        with mapped():
            answer = await self._http.get("/spills")
            checked(answer)
            if len(answer.content) > _MAX_LIST_BYTES:
                raise Away("the list of long results is too long")
            listed: Any = answer.json()
        try:
            found = [
                Spill(item["tool_use_id"], item["size_bytes"], item["sha256"])
                for item in listed["data"]
            ]
        except (KeyError, TypeError) as error:
            raise Away("malformed list of long results") from error
        return [spill for spill in found if _ID.fullmatch(str(spill.use_id))]

    async def read(self, spill: Spill) -> str:
        """Return a text.

        Raises:
            Refused: it is gone, or not what was listed.
            Away: not now.
        """
        data = bytearray()
        with mapped():
            async with self._http.stream("GET", f"/spills/{spill.use_id}") as answer:
                checked(answer)
                async for chunk in answer.aiter_bytes():
                    data += chunk
                    if len(data) > MAX_FILE_BYTES:
                        raise Refused(f"over {MAX_FILE_BYTES} bytes", 413)
        if hashlib.sha256(data).hexdigest() != spill.sha256:
            raise Away("a long result arrived damaged")
        return data.decode("utf-8", "replace")

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


class Spills:
    """The long results of one session, as far as its sandbox has them."""

    def __init__(self, client: SpillClient, hands: Hands, record: Record) -> None:
        self._client = client
        self._hands = hands
        self._record = record
        self._there: set[str] = set()
        self._known = True

    async def lay_out(self) -> None:
        """Write what the sandbox has not; never raises."""
        if not self._known:
            return
        try:
            with anyio.fail_after(_LIMIT_S):
                for spill in await self._client.find():
                    if spill.use_id not in self._there:
                        await self._write(spill)
        except Refused as error:
            self._known = error.status != 404
            log.info("long_results_refused", status=error.status)
        except _TROUBLE as error:
            log.warning("long_result_left_out", error=str(error) or "it took too long")

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _write(self, spill: Spill) -> None:
        try:
            text = await self._client.read(spill)
        except Refused:
            self._there.add(spill.use_id)  # it went meanwhile
            return
        await self._record.write(
            "spill.fetch",
            direction=INWARD,
            session_id=self._client.session_id,
            call_id=spill.use_id,
            bytes=spill.size,
            sha256=spill.sha256,
        )
        sandbox = await self._hands.take(self._client.session_id)
        arguments = {"file_path": place(spill.use_id), "content": text}
        written = await sandbox.call("write", arguments)
        if written.is_error:
            log.warning("long_result_not_written", call_id=spill.use_id)
        self._there.add(spill.use_id)
