"""A control plane over real HTTP that keeps the wire contract and does what a test scripts.

The worker under test talks to it with the real SDK. It serves one environment's queue and its
sessions from memory, logs every request, and fails on demand: ``fail("post", 503, times=2)``.
"""

import base64
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

KEY = "sk-ant-oat01-environment-key-0123456789"
ENVIRONMENT = "env_test"


@dataclass
class FakeItem:
    work_id: str
    session_id: str
    kind: str = "session"
    token: str | None = None
    secret: str | None = None
    state: str = "queued"
    claimed_at: float | None = None
    last: str | None = None
    ttl_s: int = 300
    beats: int = 0
    stopped: anyio.Event = field(default_factory=anyio.Event)

    @property
    def claimed(self) -> bool:
        """Whether it was handed to somebody since it was last queued."""
        return self.claimed_at is not None


@dataclass
class FakeSession:
    session_id: str
    status: str = "idle"
    events: list[dict[str, Any]] = field(default_factory=list)
    tails: list[Any] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    on_result: Callable[[dict[str, Any]], None] | None = None

    def emit(self, kind: str, **members: Any) -> dict[str, Any]:
        event = {"id": f"sevt_{self.session_id}_{len(self.events)}", "type": kind, **members}
        self.events.append(event)
        for tail in self.tails:
            tail.send_nowait(event)
        return event

    def tool_use(self, name: str, arguments: Any, **members: Any) -> str:
        members = {"evaluated_permission": "allow", **members}
        event = self.emit("agent.tool_use", name=name, input=arguments, **members)
        return str(event["id"])

    def idle(self, reason: str = "end_turn") -> None:
        self.emit("session.status_idle", stop_reason={"type": reason})

    def result_of(self, call_id: str) -> dict[str, Any]:
        (found,) = [
            r
            for r in self.results
            if call_id in (r.get("tool_use_id"), r.get("custom_tool_use_id"))
        ]
        return found


@dataclass(frozen=True)
class Seen:
    route: str
    path: str
    query: dict[str, str]
    bearer: str
    body: Any = None


class ControlPlane:
    def __init__(self) -> None:
        self.items: dict[str, FakeItem] = {}
        self.sessions: dict[str, FakeSession] = {}
        self.seen: list[Seen] = []
        self.block_s = 0.05
        self._failures: dict[str, deque[Response]] = {}
        self._arrived = anyio.Event()
        self.base_url = ""

    # --- what tests script

    def session(self, session_id: str = "sesn_1") -> FakeSession:
        return self.sessions.setdefault(session_id, FakeSession(session_id))

    def offer(self, session_id: str = "sesn_1", **members: Any) -> FakeItem:
        self.session(session_id)
        item = FakeItem(f"work_{len(self.items)}", session_id, **members)
        if item.token:
            item.secret = (
                base64.urlsafe_b64encode(json.dumps({"sessions_token": item.token}).encode())
                .decode()
                .rstrip("=")
            )
        self.items[item.work_id] = item
        self._wake()
        return item

    def requeue(self, item: FakeItem) -> None:
        item.state, item.claimed_at, item.last = "queued", None, None
        self._wake()

    def fail(self, route: str, status: int, *, times: int = 1, headers: Any = None) -> None:
        body = {"type": "error", "error": {"type": "api_error", "message": "scripted"}}
        queue = self._failures.setdefault(route, deque())
        queue.extend(JSONResponse(body, status, headers=headers) for _ in range(times))

    def recover(self, route: str) -> None:
        self._failures.pop(route, None)

    def answer(self, route: str, response: Response) -> None:
        self._failures.setdefault(route, deque()).append(response)

    def cut_streams(self) -> None:
        for session in self.sessions.values():
            for tail in session.tails:
                tail.close()
            session.tails.clear()

    def count(self, route: str) -> int:
        return sum(1 for seen in self.seen if seen.route == route)

    def _wake(self) -> None:
        self._arrived.set()
        self._arrived = anyio.Event()

    # --- the endpoints

    def app(self) -> Starlette:
        work, session = "/v1/environments/{env}/work", "/v1/sessions/{sid}"
        return Starlette(
            routes=[
                self._route("poll", f"{work}/poll", "GET", self._poll),
                self._route("ack", f"{work}/{{wid}}/ack", "POST", self._ack),
                self._route("heartbeat", f"{work}/{{wid}}/heartbeat", "POST", self._heartbeat),
                self._route("stop", f"{work}/{{wid}}/stop", "POST", self._stop),
                self._route("session", session, "GET", self._session),
                self._route("stream", f"{session}/events/stream", "GET", self._stream),
                self._route("list", f"{session}/events", "GET", self._list),
                self._route("post", f"{session}/events", "POST", self._post),
            ]
        )

    def _route(self, name: str, path: str, method: str, handler: Any) -> Route:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            self.seen.append(
                Seen(
                    name,
                    request.url.path,
                    dict(request.query_params),
                    request.headers.get("authorization", "").removeprefix("Bearer "),
                    json.loads(body) if body else None,
                )
            )
            if self._failures.get(name):
                return self._failures[name].popleft()
            assert request.headers["anthropic-beta"] == "managed-agents-2026-04-01"
            return await handler(request, json.loads(body) if body else None)

        return Route(path, endpoint, methods=[method])

    async def _poll(self, request: Request, _body: Any) -> Response:
        assert 1 <= int(request.query_params["block_ms"]) <= 999
        assert request.headers["anthropic-worker-id"]
        reclaim_s = int(request.query_params.get("reclaim_older_than_ms", "5000")) / 1000
        with anyio.move_on_after(self.block_s):
            # Nothing for who has hung up, and again what one took who was killed then (9.14).
            while not await request.is_disconnected():
                now = anyio.current_time()
                for item in self.items.values():
                    since = item.claimed_at
                    if item.state == "queued" and (since is None or now - since >= reclaim_s):
                        item.claimed_at = now
                        return JSONResponse(self._work(item, item.secret))
                await self._arrived.wait()
        return JSONResponse(None)

    async def _ack(self, request: Request, _body: Any) -> Response:
        item = self.items[request.path_params["wid"]]
        if item.state != "queued":
            return self._error(409, "conflict_error")
        item.state = "starting"
        return JSONResponse(self._work(item))

    async def _heartbeat(self, request: Request, _body: Any) -> Response:
        item = self.items[request.path_params["wid"]]
        expected = request.query_params.get("expected_last_heartbeat")
        if item.state in ("stopping", "stopped"):
            return JSONResponse(self._beat(item, extended=False))
        if item.state == "queued" or expected != (item.last or "NO_HEARTBEAT"):
            return self._error(412, "invalid_request_error")
        if "desired_ttl_seconds" in request.query_params:
            item.ttl_s = min(item.ttl_s, int(request.query_params["desired_ttl_seconds"]))
        item.state, item.beats = "active", item.beats + 1
        item.last = f"2026-01-01T00:00:{item.beats:02}.000001Z"
        return JSONResponse(self._beat(item, extended=True))

    async def _stop(self, request: Request, body: Any) -> Response:
        item = self.items[request.path_params["wid"]]
        if item.state == "stopped":
            return self._error(409, "conflict_error")
        assert body["force"] is True
        item.state = "stopped"
        item.stopped.set()
        return JSONResponse(self._work(item))

    async def _session(self, request: Request, _body: Any) -> Response:
        session = self.sessions[request.path_params["sid"]]
        return JSONResponse({"id": session.session_id, "type": "session", "status": session.status})

    async def _list(self, request: Request, _body: Any) -> Response:
        assert request.query_params["limit"] == "1000"
        events = self.sessions[request.path_params["sid"]].events
        start = int(request.query_params.get("page", "0"))
        # Small pages, so that every test walks through several.
        page = events[start : start + 3]
        more = str(start + 3) if start + 3 < len(events) else None
        return JSONResponse({"data": page, "next_page": more})

    async def _post(self, request: Request, body: Any) -> Response:
        session = self.sessions[request.path_params["sid"]]
        accepted = []
        for event in body["events"]:
            key = "custom_tool_use_id" if "custom_tool_use_id" in event else "tool_use_id"
            known = [r for r in session.results if r.get(key) == event[key]]
            if known:
                accepted.append(known[0])
                continue
            stored = session.emit(event["type"], **{k: v for k, v in event.items() if k != "type"})
            session.results.append(stored)
            accepted.append(stored)
            if session.on_result is not None:
                session.on_result(stored)
        return JSONResponse({"data": accepted})

    async def _stream(self, request: Request, _body: Any) -> Response:
        session = self.sessions[request.path_params["sid"]]
        send, receive = anyio.create_memory_object_stream[dict[str, Any]](10_000)
        session.tails.append(send)

        async def frames() -> AsyncIterator[str]:
            try:
                yield ": live\n\n"
                async with receive:
                    async for event in receive:
                        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
            finally:
                send.close()
                if send in session.tails:
                    session.tails.remove(send)

        return StreamingResponse(frames(), media_type="text/event-stream")

    def _work(self, item: FakeItem, secret: str | None = None) -> dict[str, Any]:
        return {
            "id": item.work_id,
            "type": "work",
            "environment_id": ENVIRONMENT,
            "state": item.state,
            "data": {"type": item.kind, "id": item.session_id},
            "metadata": {},
            "created_at": "2026-01-01T00:00:00Z",
            "secret": secret,
        }

    def _beat(self, item: FakeItem, *, extended: bool) -> dict[str, Any]:
        return {
            "type": "work_heartbeat",
            "last_heartbeat": item.last or "",
            "lease_extended": extended,
            "state": item.state,
            "ttl_seconds": item.ttl_s,
        }

    def _error(self, status: int, kind: str) -> Response:
        headers = {"x-should-retry": "false"}
        body = {"type": "error", "error": {"type": kind, "message": "scripted"}}
        return JSONResponse(body, status, headers=headers)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the test process keeps its own


@contextlib.asynccontextmanager
async def running(plane: ControlPlane) -> AsyncIterator[ControlPlane]:
    """Serve the control plane on a free loopback port."""
    config = uvicorn.Config(
        plane.app(),
        port=0,
        ws="none",
        lifespan="off",
        log_level="error",
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve)
        with anyio.fail_after(60):
            while not server.started:  # noqa: ASYNC110  uvicorn gives no event
                await anyio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        plane.base_url = f"http://127.0.0.1:{port}"
        try:
            yield plane
        finally:
            plane.cut_streams()
            server.should_exit = True
            server.force_exit = True
