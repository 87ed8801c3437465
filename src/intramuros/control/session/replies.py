"""What of a model's reply is kept so that every later request is one that providers take. Pure.

A reply comes back in each request of its session: one that no provider takes would end the session
for good. Most models never slip; servers that speak their protocols do.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, cast

from intramuros.control.model.base import ModelReply, ModelRequest
from intramuros.control.session.view import View

Json = Mapping[str, Any]

# Stop reasons whose reply was cut off, so that its last tool call may be half an input.
CUT: Final = frozenset({"max_tokens", "model_context_window_exceeded"})
# How often in a row an agent whose words were cut off is asked to go on.
MAX_CUT_OFF: Final = 2
# What the Messages API takes as a tool use's id and name.
_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,256}")
_NAME_LIMIT: Final = 128
_FORBIDDEN: Final = re.compile(r"[^a-zA-Z0-9_-]")


def call_ids(request: ModelRequest) -> set[str]:
    """Return the ids of all calls that a conversation holds."""
    return {
        str(block["id"])
        for message in request.messages
        if message["role"] == "assistant"
        for block in cast("Sequence[Json]", message["content"])
        if block["type"] == "tool_use"
    }


def sound(content: Sequence[Json], taken: set[str], new_id: Callable[[], str]) -> list[Json]:
    """Return a reply's blocks with an id for each call that no other call of the session has.

    Args:
        taken: the ids of the calls that the conversation holds.
    """
    known, kept = set(taken), list[Json]()
    for block in content:
        if block["type"] == "tool_use":
            if not _ID.fullmatch(str(block["id"])) or block["id"] in known:
                block = {**block, "id": new_id()}
            known.add(str(block["id"]))
        kept.append(block)
    return kept


def storable(block: Json) -> dict[str, Any]:
    """Return a block that the Messages API takes back: a call's input must be an object.

    A name that no tool can have is spelled so that one could; the event shows it as it came.
    """
    if block["type"] != "tool_use":
        return dict(block)
    given = block["input"]
    name = _FORBIDDEN.sub("_", str(block["name"]))[:_NAME_LIMIT]
    return {**block, "name": name, "input": given if isinstance(given, Mapping) else {}}


def unfinished(view: View, reply: ModelReply) -> bool:
    """Tell whether an agent is asked to go on: it was cut off in its words, and not too often."""
    if reply.stop_reason not in CUT or any(b["type"] == "tool_use" for b in reply.content):
        return False
    before = list(islice(_ends(view), MAX_CUT_OFF))
    return len(before) < MAX_CUT_OFF or not all(end.get("cut_off") for end in before)


def _ends(view: View) -> Iterator[Json]:
    """Yield what is noted of this thread's whole replies, the newest first."""
    for record in reversed(view.records):
        if record.type != "span.model_request_end" or not view.own(record):
            continue
        private = record.private or {}
        if not record.body["is_error"] and not private.get("compaction"):
            yield private
