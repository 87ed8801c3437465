"""A dream over a real database, its model played by the test."""

from collections.abc import Mapping
from typing import Any

from intramuros.control.catalog import memories, memory_stores
from intramuros.control.catalog.memory_versions import Author, Writer
from intramuros.control.dreams import rows
from intramuros.control.dreams.acts import Acts
from intramuros.control.dreams.plan import Act, Dream, Limits
from intramuros.control.dreams.service import Dreams
from intramuros.control.dreams.stage import Stage
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import CredentialKind, Principal, Scope
from intramuros.control.model.catalogue import shipped_catalogue
from intramuros.control.store import events
from intramuros.control.store.records import Draft, Record
from intramuros.protocol.resources.dreams import DreamCreate
from intramuros.protocol.resources.memory import MemoryCreate, MemoryStoreCreate
from tests.fakes.world import World


class Night:
    """One workspace in which dreams are had, in one open transaction."""

    def __init__(self, world: World, limits: Limits | None = None) -> None:
        self.world, self.tx = world, world.tx
        self.stage = Stage(world.clock, world.ids, world.hub, world.journal, shipped_catalogue())
        self.dreams = Dreams(self.stage, shipped_catalogue())
        self.acts = Acts(self.stage, limits or Limits())
        self.caller = Principal(
            CredentialKind.API_KEY,
            "apikey_1",
            world.workspace_id,
            frozenset({Scope.DEVELOPER.value}),
        )

    def store(self, **texts: str) -> str:
        """Return a new store with memories; ``notes`` is at ``/notes.md``."""
        actor = Actor(self.world.clock, self.world.ids, self.world.workspace_id, "test")
        made = memory_stores.create(self.tx, actor, MemoryStoreCreate(name="Notes"))
        writer = Writer(actor, Author("api_actor", "apikey_1"), made)
        for name, text in texts.items():
            memories.create(self.tx, writer, MemoryCreate(path=f"/{name}.md", content=text))
        return made.id

    def talk(self, *texts: str) -> str:
        """Return a session in which a user said something."""
        session_id = self.world.create()
        for text in texts:
            self.world.say(session_id, text)
            self.world.run(session_id)
        return session_id

    def begin(self, store_id: str, *session_ids: str, **more: Any) -> Dream:
        """Create a dream."""
        request = DreamCreate.model_validate(
            {
                "inputs": [
                    {"type": "memory_store", "memory_store_id": store_id},
                    {"type": "sessions", "session_ids": list(session_ids)},
                ],
                "model": "scripted/x",
                **more,
            }
        )
        return self.dreams.create(self.tx, self.caller, request)

    def now(self, dream: Dream) -> Dream:
        """Return the dream as it is stored."""
        found = rows.get(self.tx, dream.workspace_id, dream.id)
        assert found is not None
        return found

    def step(self, dream: Dream) -> Act:
        """Do what comes next."""
        current = self.now(dream)
        act = self.acts.next(self.tx, current)
        self.acts.do(self.tx, current, act)
        return act

    def until(self, dream: Dream, kind: type[Act]) -> Act:
        """Do acts through the first of a kind."""
        for _ in range(50):
            act = self.step(dream)
            if isinstance(act, kind):
                return act
        raise AssertionError(f"it never came to {kind.__name__}")

    def say(self, dream: Dream, *uses: tuple[str, Mapping[str, Any]]) -> list[Record]:
        """Let the model answer what waits: with calls, or by ending its turn."""
        drafts = [
            Draft("agent.custom_tool_use", {"name": name, "input": dict(given)})
            for name, given in uses
        ]
        return self.world.run(dream.session_id, *drafts)

    def heard(self, dream: Dream, type: str) -> list[str]:
        """Return the texts of the session's events of a type, oldest first."""
        query = events.Query(types=(type,), limit=1000)
        found, _ = events.page(self.tx, dream.session_id, query)
        done = [record for record in found if not record.queued] or found
        return [str(record.body["content"][0]["text"]) for record in done]  # type: ignore[index]

    def held(self, store_id: str | None) -> dict[str, str]:
        """Return what a store holds, by path."""
        found, more = memories.find(self.tx, str(store_id), memories.Query(2000))
        assert not more
        listed = [item for item in found if not isinstance(item, str)]
        texts = memories.contents(self.tx, listed)
        return {item.path: texts[item.id].decode() for item in listed}


def statement(text: str, *sources: str) -> dict[str, Any]:
    return {"text": text, "sources": list(sources)}
