"""What the loop asks of the web tools, and what it gets back. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from intramuros.web.domains import Rules

FETCH: Final = "web_fetch"
SEARCH: Final = "web_search"


class Code(StrEnum):
    """Why a call has no result; values are the documented error codes."""

    INVALID = "invalid_tool_input"
    TOO_LONG = "url_too_long"
    NOT_ALLOWED = "url_not_allowed"
    UNSEEN = "url_not_in_prior_context"
    NOT_ACCESSIBLE = "url_not_accessible"
    UNSUPPORTED = "unsupported_content_type"
    QUERY_TOO_LONG = "query_too_long"
    TOO_MANY = "too_many_requests"
    UNAVAILABLE = "unavailable"


class Caller(Protocol):
    """On whose behalf a call is made."""

    @property
    def workspace_id(self) -> str:
        """The workspace; nothing where nobody knows it."""
        ...

    @property
    def session_id(self) -> str:
        """The session."""
        ...


@dataclass(frozen=True)
class Fetch:
    """A page to read.

    Args:
        call_id: the tool use.
        url: as :func:`~intramuros.web.urls.parse` takes it.
        rules: the agents' own; the operator's come on top.
        max_tokens: of text; None for no other limit than the server's.
    """

    caller: Caller
    call_id: str
    url: str
    rules: Rules = field(default_factory=Rules)
    max_tokens: int | None = None


@dataclass(frozen=True)
class Search:
    """Something to look for.

    Args:
        call_id: the tool use.
        rules: the agents' own; the operator's come on top.
        location: ``user_location`` of the configuration.
    """

    caller: Caller
    call_id: str
    query: str
    rules: Rules = field(default_factory=Rules)
    location: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came of a call, in the contract's content blocks.

    Args:
        searches: that are paid for; none where a search failed.
        seen: what the audit keeps of it: hosts, sizes, statuses, never content.
    """

    content: Sequence[Mapping[str, object]]
    is_error: bool = False
    searches: int = 0
    seen: Mapping[str, object] = field(default_factory=dict)


class Web(Protocol):
    """Makes web calls; what goes wrong outside is an answer too."""

    async def fetch(self, wanted: Fetch) -> Answer:
        """Read one page."""
        ...

    async def search(self, wanted: Search) -> Answer:
        """Search once."""
        ...


def refusal(code: Code, why: str, **seen: object) -> Answer:
    """Return the answer to a call that brought nothing; its text names the code (contract 6.21).

    Args:
        why: what the model reads; never an address that it made up itself.
    """
    said = [{"type": "text", "text": f"{code.value}: {why}"}]
    return Answer(said, is_error=True, seen={"error": code.value, **seen})
