"""What the loop needs of a model. Messages are in the Messages API's own shapes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from intramuros.control.model.allowed import AllowList
from intramuros.control.model.cost import Tokens
from intramuros.control.model.places import Place
from intramuros.kernel.errors import IntramurosError

Block = Mapping[str, object]


@dataclass(frozen=True)
class Usage:
    """Token counts of one request, as the provider reported them.

    Args:
        cache_creation_input_tokens: tokens written to the cache, of both lifetimes.
        cache_creation_1h_input_tokens: those of them that live for an hour.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_1h_input_tokens: int = 0

    @property
    def counters(self) -> dict[str, int]:
        """The four counters that events show (contract 14)."""
        shown = dict(vars(self))
        del shown["cache_creation_1h_input_tokens"]
        return shown

    @property
    def tokens(self) -> Tokens:
        """The counts as prices see them."""
        hour = min(self.cache_creation_1h_input_tokens, self.cache_creation_input_tokens)
        return Tokens(
            input=self.input_tokens,
            output=self.output_tokens,
            cache_read=self.cache_read_input_tokens,
            cache_write_5m=self.cache_creation_input_tokens - hour,
            cache_write_1h=hour,
        )


@dataclass(frozen=True)
class ModelRequest:
    """One request.

    Args:
        model: the id from the agent.
        system: the system prompt, or None.
        messages: Messages API messages, oldest first.
        tools: Messages API tool definitions.
        max_tokens: the most that the reply may use.
        effort: low, medium, high, xhigh or max; adapters ignore what a model lacks.
        purpose: whether the agent works, or a grader judges its work or a judge its calls; only
            scripts tell them apart.
        inference_geo: where the model is to think; None leaves it to the provider.
        must_call: the tool that the reply has to call; None leaves it to the model.
        failures: how often this request has failed before, in this turn.
        last_try: whether nobody will ask again if this fails, so that another model may answer.
        allowed: the models that may answer in its place; None for any.
        options: further parameters of the Messages API, as a caller of ours sent them.
        files: at least the uploaded files that the messages name; None if nobody knows.
    """

    model: str
    messages: Sequence[Block]
    system: str | None = None
    tools: Sequence[Block] = ()
    max_tokens: int = 16_384
    effort: str | None = None
    purpose: Literal["work", "grade", "judge"] = "work"
    must_call: str | None = None
    inference_geo: str | None = None
    failures: int = 0
    last_try: bool = False
    allowed: AllowList | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    files: Collection[str] | None = None


@dataclass(frozen=True)
class ModelReply:
    """A finished reply: Messages API content blocks in order.

    Args:
        cost: the list price in units of ``cost.py``; None where none is known.
        model: the model that answered, if it is not the one that was asked.
    """

    content: Sequence[Block]
    stop_reason: str
    usage: Usage = field(default_factory=Usage)
    cost: int | None = None
    model: str | None = None


@dataclass(frozen=True)
class TextDelta:
    """More text of the block at ``index`` of the reply's content."""

    index: int
    text: str


@dataclass(frozen=True)
class ThinkingStarted:
    """A thinking block began at ``index``."""

    index: int


@dataclass(frozen=True)
class ThinkingDelta:
    """More of the thinking block at ``index``; only adapters that do not sign it tell."""

    index: int
    text: str


Delta = TextDelta | ThinkingStarted | ThinkingDelta


class Failure(StrEnum):
    """Why a request failed; values are the contract's error types (contract 14.6)."""

    OVERLOADED = "model_overloaded_error"
    RATE_LIMITED = "model_rate_limited_error"
    REQUEST_FAILED = "model_request_failed_error"
    BILLING = "billing_error"


class ModelError(IntramurosError):
    """The request got no reply.

    Args:
        failure: what kind.
        message: for the session's log; names no credential.
        retryable: whether the same request may succeed later.
        retry_after_s: the provider's own wish, in seconds.
        too_long: whether a shorter conversation may succeed.
        ours: whether the request itself was refused, so that no other model would take it either.
    """

    def __init__(
        self,
        failure: Failure,
        message: str,
        *,
        retryable: bool,
        retry_after_s: float | None = None,
        too_long: bool = False,
        ours: bool = False,
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.too_long = too_long
        self.ours = ours
        self.place: Place | None = None
        self.thoughts = False

    def at(self, place: Place | None, *, thoughts: bool = False) -> "ModelError":
        """Say where in the messages the block is that was refused (see ``places.py``).

        Args:
            place: empty where the provider did not say where; None where it can have been none.
            thoughts: whether the provider spoke of thinking that it was given back.
        """
        self.place = place
        self.thoughts = thoughts
        return self


class Model(Protocol):
    """A provider. Cancelling the call cancels the request."""

    async def run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        """Send the request and return the whole reply; call ``on_delta`` as parts arrive.

        Raises:
            ModelError: the provider refused, failed or broke off.
        """
        ...
