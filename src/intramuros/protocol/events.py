"""The event catalogue: what clients may send, and what each type is.

Inbound models refuse unknown members; each names the contract rule it keeps. Outbound events are
written by the loop as plain members, and checked structurally against the official SDK's types in
the wire tests.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

# Content is bounded by the request body; a list this long is a mistake (contract 13.16).
MAX_BLOCKS: Final = 1000
MAX_RUBRIC_CHARS: Final = 262_144
# A session shows the description of every outcome it had, so it is bounded, generously.
MAX_DESCRIPTION_CHARS: Final = 32_768
MAX_EVENTS_PER_SEND: Final = 1000


class Strict(BaseModel):
    """A wire model that refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TextBlock(Strict):
    """Plain text."""

    type: Literal["text"]
    text: str


class Base64Source(Strict):
    """Bytes in the request itself."""

    type: Literal["base64"]
    media_type: str = Field(min_length=1)
    data: str


class UrlSource(Strict):
    """Bytes behind a URL that the model provider fetches."""

    type: Literal["url"]
    url: str = Field(min_length=1)


class FileSource(Strict):
    """An uploaded file."""

    type: Literal["file"]
    file_id: str = Field(min_length=1)


class PlainTextSource(Strict):
    """Inline text of a document (contract 13.6)."""

    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: str


class ImageBlock(Strict):
    """An image."""

    type: Literal["image"]
    source: Annotated[Base64Source | UrlSource | FileSource, Field(discriminator="type")]


class DocumentBlock(Strict):
    """A document."""

    type: Literal["document"]
    source: Annotated[
        Base64Source | UrlSource | FileSource | PlainTextSource, Field(discriminator="type")
    ]
    title: str | None = None
    context: str | None = None


class SearchResultCitations(Strict):
    """Whether a search result may be cited."""

    enabled: bool


class SearchResultBlock(Strict):
    """A search result inside a tool result (contract 13.6)."""

    type: Literal["search_result"]
    source: str
    title: str
    content: list[TextBlock]
    citations: SearchResultCitations


MessageBlock = Annotated[TextBlock | ImageBlock | DocumentBlock, Field(discriminator="type")]
ResultBlock = Annotated[
    TextBlock | ImageBlock | DocumentBlock | SearchResultBlock, Field(discriminator="type")
]


class UserMessage(Strict):
    """A message for the agent (contract 13.5)."""

    type: Literal["user.message"]
    content: list[MessageBlock] = Field(min_length=1, max_length=MAX_BLOCKS)


class UserInterrupt(Strict):
    """Stop one thread, or all (contract 13.14)."""

    type: Literal["user.interrupt"]
    session_thread_id: str | None = None


class UserToolConfirmation(Strict):
    """Allow or deny a call that was asked for (contract 13.9).

    ``session_thread_id``, here and in results, is what older clients send back; the call's id alone
    says where it goes (contract 13.10).
    """

    type: Literal["user.tool_confirmation"]
    tool_use_id: str = Field(min_length=1)
    result: Literal["allow", "deny"]
    deny_message: str | None = Field(default=None, max_length=10_000)
    session_thread_id: str | None = None


class UserToolResult(Strict):
    """The result of a built-in tool that ran in a self-hosted sandbox (contract 13.7)."""

    type: Literal["user.tool_result"]
    tool_use_id: str = Field(min_length=1)
    content: list[ResultBlock] | None = Field(default=None, max_length=MAX_BLOCKS)
    is_error: bool | None = None
    session_thread_id: str | None = None


class UserCustomToolResult(Strict):
    """The result of a custom tool."""

    type: Literal["user.custom_tool_result"]
    custom_tool_use_id: str = Field(min_length=1)
    content: list[ResultBlock] | None = Field(default=None, max_length=MAX_BLOCKS)
    is_error: bool | None = None
    session_thread_id: str | None = None


class SystemMessage(Strict):
    """Text appended to the primary thread's context (contract 13.15, 13.16)."""

    type: Literal["system.message"]
    content: list[TextBlock] = Field(min_length=1, max_length=MAX_BLOCKS)


class TextRubric(Strict):
    """How an outcome is graded, as text (contract 20.1)."""

    type: Literal["text"]
    content: str = Field(min_length=1, max_length=MAX_RUBRIC_CHARS)


class FileRubric(Strict):
    """The same in an uploaded file."""

    type: Literal["file"]
    file_id: str = Field(min_length=1, max_length=128)


class UserDefineOutcome(Strict):
    """What the agent is to bring about, and how that is graded (contract 20.1, 20.2)."""

    type: Literal["user.define_outcome"]
    description: str = Field(min_length=1, max_length=MAX_DESCRIPTION_CHARS)
    rubric: Annotated[TextRubric | FileRubric, Field(discriminator="type")]
    max_iterations: int | None = Field(default=None, strict=True, ge=1, le=20)


Inbound = Annotated[
    UserMessage
    | UserInterrupt
    | UserToolConfirmation
    | UserToolResult
    | UserCustomToolResult
    | SystemMessage
    | UserDefineOutcome,
    Field(discriminator="type"),
]


class SendEvents(Strict):
    """The body of ``POST /v1/sessions/{id}/events`` (contract 13.1)."""

    events: list[Inbound] = Field(min_length=1, max_length=MAX_EVENTS_PER_SEND)


INBOUND: Final[TypeAdapter[Inbound]] = TypeAdapter(Inbound)

# Results are facts when they arrive, and an outcome is accepted at once; everything else waits for
# the loop (contract 13.4).
RESULT_EVENTS: Final = frozenset({"user.tool_result", "user.custom_tool_result"})
PROCESSED_ON_RECEIPT: Final = RESULT_EVENTS | {"user.define_outcome"}

# What settles work in progress, so that a session takes it even at its budget (contract 12.7).
SETTLING: Final = (
    "user.tool_confirmation",
    "user.tool_result",
    "user.custom_tool_result",
    "user.interrupt",
)

# The event that answers each kind of tool use, and the member that names the call.
ANSWERS: Final[Mapping[str, tuple[str, str]]] = {
    "agent.tool_use": ("user.tool_result", "tool_use_id"),
    "agent.custom_tool_use": ("user.custom_tool_result", "custom_tool_use_id"),
    "agent.mcp_tool_use": ("agent.mcp_tool_result", "mcp_tool_use_id"),
}

# Built-in tools that run in the sandbox; the others of the toolset run on the server (contract
# 6.24, 23.1).
SANDBOX_TOOLS: Final = ("bash", "read", "write", "edit", "glob", "grep")
SERVER_TOOLS: Final = ("web_fetch", "web_search")
