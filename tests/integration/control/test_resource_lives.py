"""Any order of calls on resources: what each answers follows from what was done before.

The whole API over one database, asked as clients ask it. Beside it a model of a few lines: what
there is, what is archived, what refers to what. Lists show exactly that, in order and page by page.
"""

import itertools
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from intramuros.control.app import build_services
from intramuros.control.identity.installation import open_installation
from intramuros.control.routes import create_app
from intramuros.control.settings import ServerSettings

pytestmark = pytest.mark.timeout(240)

KEY: Final = "an-operators-own-secret"
HEADERS: Final = {"x-api-key": KEY, "anthropic-beta": "managed-agents-2026-04-01"}
PATHS: Final = {
    "agent": "/v1/agents",
    "environment": "/v1/environments",
    "memory_store": "/v1/memory_stores",
    "vault": "/v1/vaults",
    "session": "/v1/sessions",
    "deployment": "/v1/deployments",
}
# Agents and deployments are kept for good.
DELETABLE: Final = frozenset({"environment", "memory_store", "vault", "session"})
MESSAGE: Final = {"type": "user.message", "content": [{"type": "text", "text": "x"}]}


@dataclass
class Thing:
    """A resource as the model knows it."""

    kind: str
    id: str
    named: str
    archived_at: str | None = None
    version: int = 1
    uses: set[str] = field(default_factory=set)


@asynccontextmanager
async def api(home: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """The API in this process, on a database of its own."""
    opened = await open_installation(home, None, KEY)
    try:
        app = create_app(await build_services(opened, ServerSettings(data_dir=home)))
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://api.test", headers=HEADERS
        ) as client:
            yield client
    finally:
        opened.close()


class Resources(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        home = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.portal: BlockingPortal = self.stack.enter_context(start_blocking_portal())
        serving: AbstractContextManager[httpx2.AsyncClient]
        serving = self.portal.wrap_async_context_manager(api(home))
        self.client = self.stack.enter_context(serving)
        self.things: list[Thing] = []
        self.gone: list[Thing] = []
        self.numbers = itertools.count()

    def teardown(self) -> None:
        self.stack.close()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async def send() -> httpx2.Response:
            return await self.client.request(method, path, json=body)

        answer = self.portal.call(send)
        assert answer.status_code < 500, answer.text
        return answer.status_code, answer.json()

    def some(self, data: st.DataObject, kind: str, archived: bool | None = None) -> Thing | None:
        found = [
            thing
            for thing in self.things
            if thing.kind == kind and archived in (None, thing.archived_at is not None)
        ]
        return data.draw(st.sampled_from(found)) if found else None

    def make(self, kind: str, uses: set[str], **body: Any) -> tuple[int, Any]:
        named = f"{kind}-{next(self.numbers)}"
        name = {"vault": "display_name", "session": "title"}.get(kind, "name")
        status, shown = self.ask("POST", PATHS[kind], {name: named, **body})
        if status == 200:
            self.things.append(Thing(kind, shown["id"], named, uses=uses))
            assert shown["archived_at"] is None
        return status, shown

    @initialize()
    def begin(self) -> None:
        for kind in ("agent", "environment", "memory_store", "vault"):
            self.create(kind)
        agent, place, *_ = self.things
        body = {"agent": agent.id, "environment_id": place.id}
        used = {agent.id, place.id}
        assert self.make("session", set(used), **body)[0] == 200
        assert self.make("deployment", set(used), **body, initial_events=[MESSAGE])[0] == 200

    @rule(kind=st.sampled_from(["agent", "environment", "memory_store", "vault"]))
    def create(self, kind: str) -> None:
        body: dict[str, Any] = {}
        if kind == "agent":
            body = {"model": "scripted/answer"}
        if kind == "environment":
            body = {"config": {"type": "self_hosted"}}
        assert self.make(kind, set(), **body)[0] == 200

    @rule(data=st.data(), kind=st.sampled_from(["session", "deployment"]))
    def combine(self, data: st.DataObject, kind: str) -> None:
        """Make what refers to others: archived ones are 400, and missing ones 404 (AMB 32)."""
        agent, place = self.some(data, "agent"), self.some(data, "environment")
        vault = self.some(data, "vault") if data.draw(st.booleans()) else None
        used = [thing for thing in (agent, place, vault) if thing is not None]
        body: dict[str, Any] = {
            "agent": agent.id if agent else "agent_none",
            "environment_id": place.id if place else "env_none",
            "vault_ids": [vault.id] if vault else [],
        }
        if kind == "deployment":
            body["initial_events"] = [MESSAGE]
        status, shown = self.make(kind, {thing.id for thing in used}, **body)
        missing = agent is None or place is None
        closed = any(thing.archived_at for thing in used)
        expected = {200} if not missing and not closed else {400, 404}
        if not missing and closed:
            expected = {400}
        if missing and not closed:
            expected = {404}
        assert status in expected, shown

    @rule(data=st.data(), kind=st.sampled_from(sorted(PATHS)))
    def change(self, data: st.DataObject, kind: str) -> None:
        thing = self.some(data, kind)
        if thing is None:
            return
        named = f"{kind}-{next(self.numbers)}"
        name = {"vault": "display_name", "session": "title"}.get(kind, "name")
        body: dict[str, Any] = {name: named}
        if kind == "agent":
            stale = data.draw(st.booleans())
            body["version"] = thing.version + (1 if stale else 0)
            if stale and not thing.archived_at:
                assert self.ask("POST", f"{PATHS[kind]}/{thing.id}", body)[0] == 409
                return
        status, shown = self.ask("POST", f"{PATHS[kind]}/{thing.id}", body)
        if thing.archived_at:
            assert status == 400, (kind, shown)
            return
        assert status == 200, shown
        thing.named, thing.version = named, thing.version + 1
        if kind == "agent":
            assert shown["version"] == thing.version

    @rule(data=st.data(), kind=st.sampled_from(sorted(PATHS)))
    def archive(self, data: st.DataObject, kind: str) -> None:
        """Archive: for good, and again without any change."""
        thing = self.some(data, kind)
        if thing is None:
            return
        status, shown = self.ask("POST", f"{PATHS[kind]}/{thing.id}/archive")
        assert status == 200, shown
        assert shown["archived_at"] is not None
        if thing.archived_at:
            assert shown["archived_at"] == thing.archived_at
        thing.archived_at = shown["archived_at"]
        if kind == "agent":
            # Its deployments go with it (R224).
            for other in self.things:
                if other.kind == "deployment" and thing.id in other.uses:
                    _, shown = self.ask("GET", f"{PATHS['deployment']}/{other.id}")
                    other.archived_at = other.archived_at or shown["archived_at"]
                    assert shown["archived_at"] == other.archived_at is not None

    @rule(data=st.data(), kind=st.sampled_from(sorted(DELETABLE)))
    def delete(self, data: st.DataObject, kind: str) -> None:
        thing = self.some(data, kind)
        if thing is None:
            return
        status, shown = self.ask("DELETE", f"{PATHS[kind]}/{thing.id}")
        held = kind == "environment" and any(
            thing.id in other.uses for other in self.things if other.kind == "session"
        )
        if held:
            assert status == 409, shown
            return
        assert (status, shown) == (200, {"id": thing.id, "type": f"{kind}_deleted"})
        self.things.remove(thing)
        self.gone.append(thing)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def miss(self, data: st.DataObject) -> None:
        """Ask for what was deleted: it is not there, whatever is asked."""
        thing = data.draw(st.sampled_from(self.gone))
        path = f"{PATHS[thing.kind]}/{thing.id}"
        for method, more in (("GET", ""), ("POST", "/archive"), ("DELETE", "")):
            assert self.ask(method, path + more)[0] == 404

    @rule(kind=st.sampled_from(sorted(PATHS)), limit=st.integers(1, 3), archived=st.booleans())
    def walk(self, kind: str, limit: int, archived: bool) -> None:
        """Read a list page by page: newest first, archived ones only if they are asked for."""
        wanted = [
            (thing.id, thing.archived_at)
            for thing in reversed(self.things)
            if thing.kind == kind and (archived or thing.archived_at is None)
        ]
        query = f"limit={limit}&include_archived={str(archived).lower()}"
        found, page = [], ""
        while True:
            status, shown = self.ask("GET", f"{PATHS[kind]}?{query}{page}")
            assert status == 200, shown
            assert len(shown["data"]) <= limit
            found += [(entry["id"], entry["archived_at"]) for entry in shown["data"]]
            if not shown["next_page"]:
                break
            page = f"&page={shown['next_page']}"
        assert found == wanted

    @invariant()
    def the_newest_is_as_it_was_left(self) -> None:
        for thing in self.things[-2:]:
            status, shown = self.ask("GET", f"{PATHS[thing.kind]}/{thing.id}")
            name = {"vault": "display_name", "session": "title"}.get(thing.kind, "name")
            assert status == 200
            assert (shown[name], shown["archived_at"]) == (thing.named, thing.archived_at)


TestResources = Resources.TestCase
TestResources.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
