"""What a provider's prompt cache makes of requests, counted as the Messages API counts it.

A request is a row of blocks: tools, then the system prompt, then the messages. ``cache_control`` on
a block keeps everything up to it. A later request finds what was kept if it begins with the same
blocks, and if one of its own breakpoints lies less than :data:`LOOK_BACK` blocks behind. What has
fewer than :data:`MIN_TOKENS` is not kept, whatever is asked for.
"""

import hashlib
import json
from typing import Any

LOOK_BACK = 20
MAX_BREAKPOINTS = 4
MIN_TOKENS = 1024
CHARS_PER_TOKEN = 4


class PromptCache:
    """The cache of one account."""

    def __init__(self) -> None:
        self._kept: set[str] = set()

    def usage(self, body: dict[str, Any]) -> dict[str, int]:
        """Return what a request used, and keep what it asks to be kept."""
        blocks = _blocks(body)
        prefixes, sizes = _prefixes(blocks)
        marks = [place for place, block in enumerate(blocks) if "cache_control" in block]
        assert len(marks) <= MAX_BREAKPOINTS, "the API refuses more breakpoints than that"
        marks = [mark for mark in marks if sizes[mark] >= MIN_TOKENS]
        found = [
            place
            for mark in marks
            for place in range(max(0, mark - LOOK_BACK + 1), mark + 1)
            if prefixes[place] in self._kept
        ]
        read = sizes[max(found)] if found else 0
        kept = sizes[marks[-1]] if marks else 0
        self._kept.update(prefixes[mark] for mark in marks)
        return {
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": max(0, kept - read),
            "input_tokens": (sizes[-1] if sizes else 0) - max(kept, read),
            "output_tokens": 1,
        }


def _blocks(body: dict[str, Any]) -> list[dict[str, Any]]:
    system = body.get("system") or []
    if isinstance(system, str):
        system = [{"type": "text", "text": system}]
    said = [{"role": m["role"], **b} for m in body["messages"] for b in m["content"]]
    return [*body.get("tools", []), *system, *said]


def _prefixes(blocks: list[dict[str, Any]]) -> tuple[list[str], list[int]]:
    """Return what identifies everything through each block, and its tokens."""
    digest, chars = hashlib.sha256(), 0
    prefixes, sizes = [], []
    for block in blocks:
        plain = {name: value for name, value in block.items() if name != "cache_control"}
        text = json.dumps(plain, sort_keys=True)
        digest.update(text.encode())
        chars += len(text)
        prefixes.append(digest.hexdigest())
        sizes.append(chars // CHARS_PER_TOKEN)
    return prefixes, sizes
