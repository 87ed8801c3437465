"""Memory stores as the worker sees them, through the official SDK and with the item's token."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from intramuros.execution.client import Away, ItemClient, Work, mapped

# The largest pages of each view (contract 25.16).
_BASIC_PAGE: Final = 100
_FULL_PAGE: Final = 20


@dataclass(frozen=True)
class Memory:
    """A memory as the control plane has it; ``path`` begins with a slash."""

    id: str
    path: str
    sha256: str
    content: str | None = field(default=None, repr=False)


class MemoryClient:
    """The memory stores of one item's session. Errors are those of ``client.py``."""

    def __init__(self, item: ItemClient) -> None:
        self._item = item

    @property
    def work(self) -> Work:
        """The work item."""
        return self._item.work

    async def memories(self, store_id: str, *, full: bool) -> AsyncIterator[Memory]:
        """Yield every memory of a store, with its content if ``full`` (contract 25.16)."""
        pages = self._item.sdk.beta.memory_stores.memories.list(
            store_id,
            view="full" if full else "basic",
            limit=_FULL_PAGE if full else _BASIC_PAGE,
        )
        with mapped():
            async for raw in pages:
                if getattr(raw, "type", None) == "memory":
                    yield read_memory(raw)

    async def memory(self, store_id: str, memory_id: str) -> Memory:
        """Return a memory with its content."""
        with mapped():
            raw = await self._item.sdk.beta.memory_stores.memories.retrieve(
                memory_id, memory_store_id=store_id, view="full"
            )
        return read_memory(raw)

    async def create_memory(self, store_id: str, path: str, content: str) -> Memory:
        """Send a new memory; :class:`Raced` when one is at the path."""
        with mapped():
            raw = await self._item.sdk.beta.memory_stores.memories.create(
                store_id, path=path, content=content
            )
        return read_memory(raw)

    async def update_memory(self, store_id: str, known: Memory, content: str) -> Memory:
        """Send new content; :class:`Raced` unless the memory still holds what is known."""
        with mapped():
            raw = await self._item.sdk.beta.memory_stores.memories.update(
                known.id,
                memory_store_id=store_id,
                content=content,
                precondition={"type": "content_sha256", "content_sha256": known.sha256},
            )
        return read_memory(raw)

    async def delete_memory(self, store_id: str, known: Memory) -> None:
        """Delete a memory; :class:`Raced` unless it still holds what is known."""
        with mapped():
            await self._item.sdk.beta.memory_stores.memories.delete(
                known.id, memory_store_id=store_id, expected_content_sha256=known.sha256
            )


def read_memory(raw: object) -> Memory:
    """Read a memory.

    Raises:
        Away: it has another form.
    """
    id, path, sha256 = (getattr(raw, name, None) for name in ("id", "path", "content_sha256"))
    content = getattr(raw, "content", None)
    if not isinstance(id, str) or not isinstance(path, str) or not isinstance(sha256, str):
        raise Away("malformed memory")
    return Memory(id, path, sha256, content if isinstance(content, str) else None)
