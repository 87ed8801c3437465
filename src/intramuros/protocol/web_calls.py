"""Calls of web tools that a worker makes, inside the perimeter. Pure.

::

    worker                                        server
      │ GET  /x/web_calls/poll                       │  held open for a while; null, or a call,
      │◄──────────────────────────────── call ───────│  which is given to nobody else from now on
      │ POST /x/web_calls/{id}/heartbeat ───────────►│  every second: the worker lives
      │◄────────────────── {"wanted": false} ────────│  once nobody waits for it
      │ POST /x/web_calls/{id}  answer ─────────────►│  taken once; 409 when it is too late

With an environment key a worker makes the calls of that environment's sessions, with a pool key
those of all cloud environments. No other program is given such calls. A worker that is not heard of
for a while is taken for dead: its call is answered with an error, and what it brings is too late.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints, field_validator

from intramuros.protocol.events import (
    Base64Source,
    DocumentBlock,
    ImageBlock,
    PlainTextSource,
    ResultBlock,
)
from intramuros.protocol.resources.base import Request

PATH: Final = "/x/web_calls"
# How long an empty poll is held open, in milliseconds; below common proxy timeouts.
MAX_WAIT_MS: Final = 20_000
# What workers that make web calls name, so that a call is not offered where there is none.
TOOLS_HEADER: Final = "x-intramuros-web-tools"
# How often a worker says that it lives, and the silence after which it is taken for dead, seconds.
BEAT_S: Final = 1.0
LEASE_S: Final = 6.0
MAX_BLOCKS: Final = 20
MAX_HOSTS: Final = 16

Lists = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class WebCall:
    """A call to be made.

    Args:
        id: the tool use.
        ticket: names the call in the queue; goes back with the answer, as does the epoch.
        name: of the tool.
        asked: the URL, in its one spelling, or the query.
        allowed: lists of domains of which each must cover a host; see ``web/domains.py``.
        blocked: domains of which none may.
        max_tokens: of a page's text.
        location: where the user is said to be.
        timeout_s: seconds that the call may take.
    """

    id: str
    ticket: str
    epoch: int
    session_id: str
    name: str
    asked: str
    allowed: Lists = ()
    blocked: tuple[str, ...] = ()
    max_tokens: int | None = None
    location: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 20.0

    def dump(self) -> dict[str, object]:
        """Return the call as JSON values."""
        return {"type": "web_call", **asdict(self)}


def read_call(raw: object) -> WebCall:
    """Return the call that :meth:`WebCall.dump` wrote.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(raw, Mapping) or raw.get("type") != "web_call":
        raise ValueError("not a web call")
    texts = {name: _text(raw, name) for name in ("id", "ticket", "session_id", "name", "asked")}
    epoch, timeout_s, tokens = (raw.get(name) for name in ("epoch", "timeout_s", "max_tokens"))
    location = raw.get("location") or {}
    if not isinstance(epoch, int) or not isinstance(timeout_s, int | float) or timeout_s <= 0:
        raise ValueError("malformed web call")
    if not (tokens is None or isinstance(tokens, int)) or not isinstance(location, Mapping):
        raise ValueError("malformed web call")
    lists = raw.get("allowed")
    if not isinstance(lists, list):
        raise ValueError("malformed web call")
    return WebCall(
        **texts,
        epoch=epoch,
        # A list that is not understood must not become one that allows everything.
        allowed=tuple(_texts(entries) for entries in lists),
        blocked=_texts(raw.get("blocked")),
        max_tokens=tokens,
        location={str(key): value for key, value in location.items() if isinstance(value, str)},
        timeout_s=float(timeout_s),
    )


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError("malformed web call")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("malformed web call")
    return tuple(value)


_Ticket = Annotated[str, StringConstraints(min_length=1, max_length=400)]
_Host = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class WebSeen(Request):
    """What a worker saw on the way; the audit keeps it."""

    hosts: list[_Host] = Field(default=[], max_length=MAX_HOSTS)
    status: int | None = Field(default=None, ge=100, le=999)
    received: int = Field(default=0, ge=0)
    hits: int | None = Field(default=None, ge=0)


class WebClaim(Request):
    """Says under which claim a worker acts: the call's own ticket and epoch."""

    ticket: _Ticket
    epoch: int = Field(ge=1)


class WebAnswer(WebClaim):
    """What came of a call."""

    content: list[ResultBlock] = Field(min_length=1, max_length=MAX_BLOCKS)
    is_error: bool = False
    seen: WebSeen = Field(default_factory=WebSeen)

    @field_validator("content")
    @classmethod
    def _inline(cls, content: list[ResultBlock]) -> list[ResultBlock]:
        """Take what a worker read, and nothing that somebody else would have to read for it."""
        for block in content:
            if isinstance(block, ImageBlock):
                raise ValueError("a web call brings no images")
            if isinstance(block, DocumentBlock) and not isinstance(
                block.source, Base64Source | PlainTextSource
            ):
                raise ValueError("a web call's documents are inline")
        return content
