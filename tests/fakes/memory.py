"""Memory stores at the control plane, without HTTP: what ``ItemClient`` does with them."""

import hashlib
from collections.abc import AsyncIterator

import anyio.lowlevel

from intramuros.execution.client import Raced, Refused, Work
from intramuros.execution.memory_client import Memory


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class FakeMemory:
    """One client for every store; ``failures`` are raised in turn, before or (``late``) after."""

    def __init__(self, token: str | None = "token") -> None:
        self.work = Work("work_1", "env_1", "session", "sesn_1", token)
        self.stores: dict[str, dict[str, Memory]] = {}
        self.log: list[tuple[str, str]] = []
        self.failures: dict[str, list[Exception]] = {}
        self.late: dict[str, list[Exception]] = {}
        self._made = 0

    def put(self, store_id: str, path: str, content: str) -> Memory:
        """Change a memory as somebody else would."""
        held = self.stores.setdefault(store_id, {})
        old = next((memory for memory in held.values() if memory.path == path), None)
        self._made += 1
        id = old.id if old else f"mem_{self._made}"
        held[id] = Memory(id, path, sha(content), content)
        return held[id]

    def drop(self, store_id: str, path: str) -> None:
        held = self.stores[store_id]
        held.pop(next(memory.id for memory in held.values() if memory.path == path))

    def held(self, store_id: str) -> dict[str, str | None]:
        return {memory.path: memory.content for memory in self.stores[store_id].values()}

    def did(self, *names: str) -> list[tuple[str, str]]:
        return [entry for entry in self.log if entry[0] in names]

    async def memories(self, store_id: str, *, full: bool) -> AsyncIterator[Memory]:
        await self._begin("full" if full else "list", store_id)
        for memory in list(self.stores.get(store_id, {}).values()):
            content = memory.content if full else None
            yield Memory(memory.id, memory.path, memory.sha256, content)

    async def memory(self, store_id: str, memory_id: str) -> Memory:
        await self._begin("get", memory_id)
        return self._find(store_id, memory_id)

    async def create_memory(self, store_id: str, path: str, content: str) -> Memory:
        await self._begin("create", path)
        if path in self.held(store_id):
            raise Raced("HTTP 409")
        made = self.put(store_id, path, content)
        self._end("create")
        return made

    async def update_memory(self, store_id: str, known: Memory, content: str) -> Memory:
        await self._begin("update", known.path)
        if self._find(store_id, known.id).sha256 != known.sha256:
            raise Raced("HTTP 409")
        made = self.put(store_id, known.path, content)
        self._end("update")
        return made

    async def delete_memory(self, store_id: str, known: Memory) -> None:
        await self._begin("delete", known.path)
        if self._find(store_id, known.id).sha256 != known.sha256:
            raise Raced("HTTP 409")
        self.stores[store_id].pop(known.id)

    def _find(self, store_id: str, memory_id: str) -> Memory:
        found = self.stores[store_id].get(memory_id)
        if found is None:
            raise Refused("HTTP 404", 404)
        return found

    async def _begin(self, name: str, what: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.log.append((name, what))
        if self.failures.get(name):
            raise self.failures[name].pop(0)

    def _end(self, name: str) -> None:
        if self.late.get(name):
            raise self.late[name].pop(0)
