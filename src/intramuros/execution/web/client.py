"""The server's side of web calls (``/x/web_calls``), with the key that the worker polls with.

Official clients have no methods for these, so this is plain HTTP; errors are those of
``client.py``.
"""

from typing import Any, Final

import httpx2

from intramuros.execution.client import Away, Raced
from intramuros.execution.hosted_client import checked, mapped
from intramuros.execution.server import Server
from intramuros.protocol.envelope import WORKER_HEADER
from intramuros.protocol.web_calls import (
    BEAT_S,
    MAX_WAIT_MS,
    PATH,
    TOOLS_HEADER,
    WebCall,
    read_call,
)

_TIMEOUT: Final = httpx2.Timeout(30.0, connect=10.0)
_CONFLICT: Final = 409
# A sign of life that hangs must not keep the next one from being given.
_BEAT: Final = httpx2.Timeout(2 * BEAT_S)
_POLL: Final = httpx2.Timeout(MAX_WAIT_MS / 1000 + 15.0, connect=10.0)


class WebCallClient:
    """One worker's door to the calls that it is to make.

    Args:
        key: an environment key or a pool key.
        tools: whose calls it makes.
    """

    def __init__(self, server: Server, key: str, worker_id: str, tools: frozenset[str]) -> None:
        headers = {
            "authorization": f"Bearer {key}",
            WORKER_HEADER: worker_id,
            TOOLS_HEADER: ",".join(sorted(tools)),
        }
        self._http = server.client(PATH, headers, _TIMEOUT)

    async def poll(self) -> WebCall | None:
        """Claim the next call, waiting on the server for a while.

        Raises:
            Refused: this server will never hand out any.
            Away: try again.
        """
        with mapped():
            answer = await self._http.get("/poll", params={"wait_ms": MAX_WAIT_MS}, timeout=_POLL)
            checked(answer)
            raw: Any = answer.json()
            return None if raw is None else read_call(raw)

    async def beat(self, call: WebCall) -> bool:
        """Say that the worker lives; returns whether the answer would still be taken."""
        with mapped():
            path = f"/{call.id}/heartbeat"
            answer = await self._http.post(path, json=_claim(call), timeout=_BEAT)
            checked(answer)
            said: Any = answer.json()
        if not isinstance(said, dict):
            raise Away("malformed answer")
        return said.get("wanted") is True

    async def answer(self, call: WebCall, body: dict[str, object]) -> None:
        """Give the answer.

        Raises:
            Raced: nobody waits for it any more.
        """
        with mapped():
            answer = await self._http.post(f"/{call.id}", json={**_claim(call), **body})
        if answer.status_code == _CONFLICT:
            raise Raced("nobody waits for it any more")
        checked(answer)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


def _claim(call: WebCall) -> dict[str, object]:
    return {"ticket": call.ticket, "epoch": call.epoch}
