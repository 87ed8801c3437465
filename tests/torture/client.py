"""A client that swears: what it asked for, what it was promised, and what it saw.

Each deed is in its journal before the request goes out, and each promise when the answer is there.
It tries again whatever failed, at any server, sometimes twice at once: requests are delivered
double and out of order.
"""

import hashlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
import httpx2

from tests.torture import jobs
from tests.torture.journal import Journal
from tests.torture.world import BETA, World

# A stream that is silent for so long is opened anew: who cut it may not have said so.
SILENCE_S = 4.0
REQUEST_S = 8.0
PAUSE_S = 0.3
NUDGE_S = 2.0
FAILURES = (httpx2.HTTPError, OSError, json.JSONDecodeError)
DOUBLED, DENIED, INTERRUPTED = 0.25, 0.15, 0.08


class GaveUp(Exception):
    """The world is over."""


@dataclass
class Client:
    """One client with one session.

    Args:
        until: when to begin no more messages, on the monotonic clock.
    """

    world: World
    name: str
    seed: int
    journal: Journal
    until: float
    steps: int = 3
    session_id: str = ""
    position: int = 0
    done: set[str] = field(default_factory=set)
    idle: bool = False
    failed: bool = False
    running: bool = False
    stopped: bool = False
    _news: anyio.Event = field(default_factory=anyio.Event)
    _answered: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._dice = random.Random(f"client {self.name} {self.seed}")
        self._count = 0

    async def run(self) -> None:
        """Make a session, and give it one job after the other until it is time to stop."""
        headers = {"x-api-key": self.world.api_key, **BETA}
        timeout = httpx2.Timeout(REQUEST_S, read=REQUEST_S)
        limits = httpx2.Limits(max_keepalive_connections=8)
        async with httpx2.AsyncClient(headers=headers, timeout=timeout, limits=limits) as http:
            self._http = http
            await self._create()
            async with anyio.create_task_group() as group:
                self._group = group
                group.start_soon(self._follow)
                while time.monotonic() < self.until:
                    await self._job()
                    await anyio.sleep(self._dice.random() * 0.5)
                group.cancel_scope.cancel()
        self.journal.write("finished", session=self.session_id)

    async def _create(self) -> None:
        agent = self.world.agents[self._dice.choice(["free", "free", "asked"])]
        body = {"agent": agent, "environment_id": self.world.environment_id, "title": self.name}
        made = await self._insist("create", "/v1/sessions", body)
        self.session_id = made["id"]

    async def _job(self) -> None:
        self._count += 1
        token = f"{self.name}t{self._count}"
        kinds = [s for s in jobs.STEPS if s != jobs.MCP or self.world.shape.tunnel]
        steps = [self._dice.choice(kinds) for _ in range(self._dice.randint(1, self.steps))]
        self.idle = False
        self.journal.write("token", token=token, session=self.session_id)
        content = [{"type": "text", "text": jobs.ask(token, steps)}]
        await self._send("message", {"type": "user.message", "content": content}, token)
        if self._dice.random() < INTERRUPTED:
            await anyio.sleep(self._dice.random())
            self.journal.write("interrupting", session=self.session_id, token=token)
            self.stopped = False
            await self._send("interrupt", {"type": "user.interrupt"}, token)
            # One that comes behind the turn's end ends nothing, and no idle follows it.
            await self._until(lambda: self.stopped and not self.running)
            return
        while not (token in self.done and self.idle):
            with anyio.move_on_after(NUDGE_S):
                await self._until(lambda: token in self.done and self.idle)
            if self.idle and token not in self.done and self.failed:
                # The turn was given up, and says so: whoever wants more asks again.
                self.idle = self.failed = False
                await self._send("nudge", {"type": "user.message", "content": content}, token)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._news.wait()

    async def _send(self, op: str, event: dict[str, Any], about: str) -> None:
        path = f"/v1/sessions/{self.session_id}/events"
        await self._insist(op, path, {"events": [event]}, about)

    async def _insist(self, op: str, path: str, body: Any, about: str = "") -> Any:
        """Post until an answer comes, and return it; sometimes twice at once."""
        attempt = 0
        while True:
            attempt += 1
            twice = op in ("result", "confirm") and self._dice.random() < DOUBLED
            if twice:
                self._group.start_soon(self._post, op, path, body, about, attempt)
            answer = await self._post(op, path, body, about, attempt)
            if answer is not None:
                return answer
            await anyio.sleep(PAUSE_S * self._dice.uniform(0.5, 1.5))

    async def _post(self, op: str, path: str, body: Any, about: str, attempt: int) -> Any:
        door = self._dice.choice(self.world.doors)
        self.journal.write(
            "asked", op=op, about=about, attempt=attempt, door=door, session=self.session_id
        )
        try:
            answer = await self._http.post(door + path, json=body)
            found = answer.json()
        except FAILURES as error:
            self.journal.write("lost", sync=False, op=op, about=about, error=repr(error))
            return None
        if answer.status_code == 200:
            ids = [e["id"] for e in found["data"]] if "data" in found else [found["id"]]
            self.journal.write("promised", op=op, about=about, ids=ids, session=self.session_id)
            return found
        kept = {"status": answer.status_code, "body": found}
        self.journal.write("refused", op=op, about=about, session=self.session_id, **kept)
        # What is refused as too late was answered by another delivery.
        return found if 400 <= answer.status_code < 500 and answer.status_code != 429 else None

    async def _follow(self) -> None:
        """See everything that happens in the session, wherever a server is left to tell it."""
        while True:
            door = self._dice.choice(self.world.doors)
            query = f"after_seq={self.position}&beta=true"
            url = f"{door}/v1/sessions/{self.session_id}/events/stream?{query}"
            try:
                async with self._http.stream("GET", url) as answer:
                    if answer.status_code == 200:
                        await self._see(answer)
            except FAILURES:
                pass
            await anyio.sleep(PAUSE_S * self._dice.random())

    async def _see(self, answer: httpx2.Response) -> None:
        async with aclosing(_frames(answer)) as frames:
            while True:
                with anyio.move_on_after(SILENCE_S) as scope:
                    frame = await anext(frames, None)
                if scope.cancelled_caught or frame is None:
                    return
                position, event = frame
                if position is not None:
                    self._happened(position, event)

    def _happened(self, position: int, event: dict[str, Any]) -> None:
        digest = hashlib.sha256(jobs.dumped(event).encode()).hexdigest()
        self.journal.write(
            "saw", sync=False, session=self.session_id, seq=position, id=event["id"], sha=digest
        )
        self.position = max(self.position, position)
        kind = event["type"]
        if kind == "agent.message":
            for block in event["content"]:
                self.done.update(jobs.said_done(block["text"]))
        elif kind == "session.status_running":
            self.running = True
        elif kind == "session.status_idle":
            self.running = event["stop_reason"]["type"] == "requires_action"
        elif kind == "user.interrupt":
            self.stopped = True
        elif kind == "session.error":
            self.failed = True
        elif kind == "agent.custom_tool_use":
            self._group.start_soon(self._answer, event)
        elif kind == "agent.tool_use" and event.get("evaluated_permission") == "ask":
            self._group.start_soon(self._confirm, event)
        self.idle = kind == "session.status_idle" and (
            event["stop_reason"]["type"] != "requires_action"
        )
        news, self._news = self._news, anyio.Event()
        news.set()

    async def _answer(self, event: dict[str, Any]) -> None:
        await anyio.sleep(self._dice.random() * 0.3)
        content = [{"type": "text", "text": f"answered {event['input'].get('nonce')}"}]
        result = {
            "type": "user.custom_tool_result",
            "custom_tool_use_id": event["id"],
            "content": content,
        }
        await self._send("result", result, event["id"])

    async def _confirm(self, event: dict[str, Any]) -> None:
        denied = self._dice.random() < DENIED
        reply: dict[str, Any] = {"type": "user.tool_confirmation", "tool_use_id": event["id"]}
        reply |= {"result": "deny", "deny_message": "no"} if denied else {"result": "allow"}
        await self._send("confirm", reply, event["id"])


async def _frames(answer: httpx2.Response) -> AsyncIterator[tuple[int | None, dict[str, Any]]]:
    """Yield each frame of a stream: its position in the log, if it has one, and the event."""
    position: int | None = None
    data = ""
    async for line in answer.aiter_lines():
        if line.startswith("id:"):
            position = int(line[3:])
        elif line.startswith("data:"):
            data = line[5:]
        elif not line and data:
            yield position, json.loads(data)
            position, data = None, ""
