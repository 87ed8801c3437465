"""Which methods of the official SDK these tests call, and have answered.

Processes that run files of tests side by side each keep a page of notes in one directory, written
anew after every test of this room.
"""

import functools
import inspect
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anthropic
import pytest

from tests.wire.sdk_calls import composed, methods

# Names of methods that returned, by kind of client.
answered: dict[str, set[str]] = {"sync": set(), "async": set()}


@dataclass
class Notes:
    """What all processes of one run have seen.

    Args:
        shared: the directory of their pages; None when there is but one process.
    """

    shared: Path | None
    ran: set[str] = field(default_factory=set)

    def ended(self, test: str) -> None:
        """Note that a test has run, and what was called so far."""
        self.ran.add(test)
        if self.shared is not None:
            page = json.dumps(
                {"ran": sorted(self.ran), "called": sorted(set().union(*answered.values()))}
            )
            draft = self.shared / f"{os.getpid()}.draft"
            draft.write_text(page, encoding="utf-8")
            draft.replace(draft.with_suffix(".json"))

    def everything(self) -> tuple[set[str], set[str]]:
        """Return the tests that have run, and the methods that they called."""
        ran, called = set(self.ran), set().union(*answered.values())
        for page in self._pages():
            ran.update(page["ran"])
            called.update(page["called"])
        return ran, called

    def _pages(self) -> Iterator[dict[str, list[str]]]:
        for path in self.shared.glob("*.json") if self.shared is not None else ():
            yield json.loads(path.read_text(encoding="utf-8"))


NOTES: Final = pytest.StashKey[Notes]()


def listen() -> None:
    """Note every method of the SDK's resources that returns; nothing else changes."""
    _wrap("sync", anthropic.Anthropic(api_key="x", base_url="http://x.test"))
    _wrap("async", anthropic.AsyncAnthropic(api_key="x", base_url="http://x.test"))


def _wrap(kind: str, client: Any) -> None:
    for name, method in methods(client):
        owner = type(method.__self__)
        plain = getattr(owner, method.__name__)
        if not composed(name) and not hasattr(plain, "__noted__"):
            setattr(owner, method.__name__, _noted(kind, name, plain))


def _noted(kind: str, name: str, plain: Any) -> Any:
    if inspect.iscoroutinefunction(plain):

        @functools.wraps(plain)
        async def noted(*given: Any, **named: Any) -> Any:
            result = await plain(*given, **named)
            answered[kind].add(name)
            return result

    else:

        @functools.wraps(plain)
        def noted(*given: Any, **named: Any) -> Any:
            result = plain(*given, **named)
            if not hasattr(result, "__await__"):
                answered[kind].add(name)
                return result
            return _Awaited(result, kind, name)

    noted.__noted__ = True  # type: ignore[attr-defined]
    return noted


class _Awaited:
    """A page that is still to be fetched: it is awaited, or iterated over."""

    def __init__(self, page: Any, kind: str, name: str) -> None:
        self._page, self._kind, self._name = page, kind, name

    def __await__(self) -> Any:
        result = yield from self._page.__await__()
        answered[self._kind].add(self._name)
        return result

    async def __aiter__(self) -> Any:
        async for item in self._page:
            yield item
        answered[self._kind].add(self._name)
