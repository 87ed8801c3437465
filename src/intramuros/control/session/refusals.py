"""A request that the provider refuses for good because of what is in it, and what then. Pure.

A corrupt image, a document that is too long, an address that cannot be fetched: it is in the log,
so every later request would be refused as well, and the session could never go on. Instead the
block is withheld: it stays in the log, the model reads in its place what was there and why it is
missing (``conversation.py``), and the request is made again.

Providers name the block, or they do not. What they name is withheld; else everything of its kind
that came since the model's last reply, because what came before it was taken once; else everything
of its kind. A server that fails again and again with words about an image or a document is taken to
refuse it. Each step withholds more than was withheld before, so there is an end. What did not
help is given back when the turn is given up: then something else is wrong, which may be cured.

Thoughts are signed by the model that had them, and another one, or another provider, may refuse to
take them back. All that were had until then are withheld at once; the words and calls around them
stay, and what the model thinks from then on comes back to it.

The facts stand in the private part of the failed request's end.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from intramuros.control.model.base import ModelError
from intramuros.control.model.places import Place
from intramuros.control.model.thoughts import KINDS, thoughts
from intramuros.control.session import withheld
from intramuros.control.session.conversation import Conversation, messages
from intramuros.control.session.drafts import failure, request_lost
from intramuros.control.session.view import View
from intramuros.control.store.records import Draft

Block = Mapping[str, Any]

# Failures in a row of a server that fails where others refuse, before it is believed to do so.
FAILURES_BEFORE: Final = 2
# Blocks that a provider may name one after the other, before all that could be meant are withheld.
NAMED_IN_A_ROW: Final = 8


def suspects(view: View, error: ModelError, *, compacts: bool) -> list[Block]:
    """Return what to withhold before a refused request is made again; nothing if that cannot help.

    Args:
        compacts: whether the request was for a summary; one that is too long may be so because of
            what no summary can shorten.
    """
    place: Place | None = error.place
    if compacts and error.too_long:
        place = ()
    if place is None or (error.retryable and view.state.failures < FAILURES_BEFORE):
        return []
    had = list(thoughts(view.conversation.settled))
    if error.thoughts and had and not _of_user(view.conversation, place):
        return had
    everything = _everything(view.conversation)
    if view.state.withheld >= NAMED_IN_A_ROW:
        return everything
    return _at(view.conversation, place) or _newest(view.conversation) or everything


def withhold(start_id: str, blocks: Sequence[Block], error: ModelError) -> list[Draft]:
    """Record that blocks are withheld from here on: the end of the request, and what is told."""
    kinds = [str(block["type"]) for block in blocks]
    thought = KINDS.issuperset(kinds)
    named = [withheld.THOUGHTS] if thought else [withheld.digest(block) for block in blocks]
    known = {"withheld": named, "why": error.message}
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    message = f"{error.message} (withheld from the model from here on: {counted})"
    return [
        request_lost(start_id, known),
        failure(error.failure.value, message, "retrying"),
    ]


def undone(view: View) -> Mapping[str, object] | None:
    """Return what the end of a turn's last request notes: that nothing stays withheld in vain."""
    heard = view.conversation
    return {"restored": True} if heard.doubts or heard.thoughts else None


def _of_user(conversation: Conversation, place: Place) -> bool:
    """Tell whether a place is in what users or tools said, where nobody thinks."""
    said = messages(conversation)
    return bool(place) and place[0] < len(said) and said[place[0]]["role"] == "user"


def _at(conversation: Conversation, place: Place) -> list[Block]:
    """Return the block at a place, or, where no such block is, those of its message."""
    said = messages(conversation)
    if not place or place[0] >= len(said) or said[place[0]]["role"] != "user":
        return []
    inside: Any = said[place[0]]["content"]
    everything = list(withheld.media(inside))
    for index in place[1:]:
        if not isinstance(inside, list | tuple) or index >= len(inside):
            return everything
        block = inside[index]
        if block["type"] in withheld.KINDS:
            return [block]
        inside = block.get("content")
    return list(withheld.media(inside)) or everything


def _newest(conversation: Conversation) -> list[Block]:
    """Return what came since the last reply, which no model has taken yet."""
    return list(chain(*map(withheld.media, _since(conversation))))


def _since(conversation: Conversation) -> Iterator[object]:
    yield from (result.get("content") for result in conversation.results.values())
    yield conversation.said


def _everything(conversation: Conversation) -> list[Block]:
    before = chain(*(withheld.media(message["content"]) for message in conversation.settled))
    return [*before, *_newest(conversation)]
