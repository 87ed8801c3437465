"""An ordinary HTTP server, as a private MCP server would be."""

import hashlib
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


class Upstream:
    """The application, and what it saw."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.step = anyio.Event()
        self.cancelled = anyio.Event()
        self.app = Starlette(
            routes=[
                Route("/echo", self.echo, methods=["GET", "POST", "DELETE"]),
                Route("/events", self.events),
                Route("/endless", self.endless),
                Route("/resumable", self.resumable),
                Route("/big/{size:int}", self.big),
                Route("/redirect", self.redirect),
            ]
        )

    async def echo(self, request: Request) -> Response:
        body = await request.body()
        self.requests.append((request.method, dict(request.headers), body))
        digest = hashlib.sha256(body).hexdigest()
        return JSONResponse(
            {"size": len(body), "sha256": digest, "query": str(request.query_params)}
        )

    async def events(self, _request: Request) -> Response:
        async def steps() -> AsyncIterator[bytes]:
            for number in range(5):
                yield f"data: {number}\n\n".encode()
                await self.step.wait()
                self.step = anyio.Event()

        return StreamingResponse(steps(), media_type="text/event-stream")

    async def resumable(self, request: Request) -> Response:
        """Sixty numbered events; who says the last one that it has gets those after it."""

        async def numbered() -> AsyncIterator[bytes]:
            for number in range(int(request.headers.get("last-event-id", -1)) + 1, 60):
                yield f"id: {number}\ndata: {number}\n\n".encode()
                await anyio.sleep(0.02)

        return StreamingResponse(numbered(), media_type="text/event-stream")

    async def endless(self, _request: Request) -> Response:
        async def bytes_for_ever() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 65536
                    await anyio.lowlevel.checkpoint()
            finally:
                self.cancelled.set()

        return StreamingResponse(bytes_for_ever(), media_type="application/octet-stream")

    async def big(self, request: Request) -> Response:
        async def blocks() -> AsyncIterator[bytes]:
            left = request.path_params["size"]
            while left:
                size = min(left, 262144)
                yield b"\xa5" * size
                left -= size

        return StreamingResponse(blocks(), media_type="application/octet-stream")

    async def redirect(self, _request: Request) -> Response:
        return Response(status_code=307, headers={"location": "http://127.0.0.1:1/"})
