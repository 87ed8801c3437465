"""Tries a token on an MCP server and tells which step failed, and how (contract-2 R085 to R090)."""

import json
from dataclasses import dataclass
from typing import Final

import anyio
import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from intramuros.control.mcp.answer import Answer, read_answer
from intramuros.kernel.telemetry import logger

log = logger("mcp")

PROBE_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class Failed:
    """The step that failed; ``answer`` is None unless the server answered with an HTTP error."""

    method: str
    answer: Answer | None


async def probe(transport: httpx2.AsyncBaseTransport, url: str, token: str) -> Failed | None:
    """Open a session with the token and list the tools.

    Args:
        transport: leads to the server; closed afterwards.

    Returns:
        None if all went well.
    """
    recorder = _Recorder(transport)
    headers = {"authorization": f"Bearer {token}"}
    try:
        with anyio.fail_after(PROBE_TIMEOUT_S):
            async with (
                httpx2.AsyncClient(
                    transport=recorder, headers=headers, timeout=PROBE_TIMEOUT_S
                ) as http,
                Client(streamable_http_client(url, http_client=http), mode="legacy") as client,
            ):
                await client.list_tools()
                recorder.failed = None
    except Exception as error:  # noqa: BLE001  whatever went wrong is the finding
        log.info("mcp_probe_failed", method=recorder.method, error=type(error).__name__)
        return recorder.failed or Failed(recorder.method, None)
    return None


class _Recorder(httpx2.AsyncBaseTransport):
    """Remembers the first request that failed."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner
        self.method = "initialize"
        self.failed: Failed | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method != "POST":
            return await self._inner.handle_async_request(request)
        self.method = _method(await request.aread()) or self.method
        response = await self._inner.handle_async_request(request)
        if response.status_code < 400:
            return response
        answer = await read_answer(response)
        self.failed = self.failed or Failed(self.method, answer)
        kind = {"content-type": answer.content_type}
        return httpx2.Response(answer.status, headers=kind, content=answer.body, request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _method(body: bytes) -> str | None:
    try:
        method = json.loads(body)["method"]
    except (ValueError, KeyError, TypeError):
        return None
    return method if isinstance(method, str) else None
