"""What tests about memory share."""

import hashlib
from typing import Any

import anthropic
from anthropic import Anthropic

from intramuros.protocol.envelope import MANAGED_AGENTS_BETA, MEMORY_BETA
from tests.wire.structure import check

MEMORY = MEMORY_BETA
AGENTS = MANAGED_AGENTS_BETA


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def error_of(error: anthropic.APIStatusError) -> dict[str, Any]:
    assert isinstance(error.body, dict)
    found: dict[str, Any] = error.body["error"]
    return found


def write(client: Anthropic, store: str, path: str, content: str = "x", **more: Any) -> Any:
    made = client.beta.memory_stores.memories.create(store, path=path, content=content, **more)
    check(made)
    return made


def paths(client: Anthropic, store: str, **query: Any) -> list[str]:
    listed = list(client.beta.memory_stores.memories.list(store, **query))
    for item in listed:
        check(item)
    return [item.path for item in listed]
