"""The meter as the agent loop uses it: its refusals are a provider's, its counts are the log's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from intramuros.control.catalog import geography
from intramuros.control.metering.meter import Meter, SpendLimitReached, TierReached, Wish
from intramuros.control.metering.rates import Rates, Ticket
from intramuros.control.metering.usage import Spender, Use, read
from intramuros.control.model.allowed import AllowList
from intramuros.control.model.base import Failure, ModelError, ModelRequest, Usage
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.records import Record
from intramuros.kernel.errors import InvalidRequest, PermissionDenied, RateLimited

_ANSWERED: Final = "span.model_request_end"
# Where the rows that end requests say what they used: those of turns, of graders and of judges.
_USAGES: Final = {
    _ANSWERED: "model_usage",
    "internal.outcome_graded": "usage",
    "internal.call_judged": "usage",
}


@dataclass(frozen=True)
class Admitted:
    """A session's request that was let through."""

    rates: Rates
    ticket: Ticket
    allowed: AllowList | None = None

    def settle(self, usage: Usage | None) -> None:
        """Say what it used; None if it got no reply."""
        self.rates.settle(self.ticket, None if usage is None else usage.tokens)


class LoopGate:
    """Lets sessions' model requests through."""

    def __init__(self, meter: Meter, db: Database) -> None:
        self._meter = meter
        self._db = db

    async def admit(self, workspace_id: str, session_id: str, request: ModelRequest) -> Admitted:
        """Let a session's request through.

        Raises:
            ModelError: to be tried again later, or not before somebody raises a limit; or the
                workspace no longer allows the place that the model is pinned to.
        """
        if request.inference_geo is not None:
            await self._check_geo(workspace_id, request.inference_geo)
        wish = Wish(
            Spender(workspace_id),
            request.model,
            (request.system, request.messages, request.tools),
            {"session_id": session_id},
            promise_to=session_id,
        )
        try:
            ticket = await self._meter.admit(wish)
            return Admitted(self._meter.rates, ticket, self._meter.allowed(workspace_id))
        except PermissionDenied as barred:
            raise ModelError(Failure.REQUEST_FAILED, barred.message, retryable=False) from barred
        except (SpendLimitReached, TierReached) as reached:
            raise ModelError(Failure.BILLING, reached.message, retryable=False) from reached
        except RateLimited as limited:
            raise ModelError(
                Failure.RATE_LIMITED,
                limited.message,
                retryable=True,
                retry_after_s=limited.hints.retry_after_s,
            ) from limited

    async def _check_geo(self, workspace_id: str, geo: str) -> None:
        pinned = {"inference_geo": geo}
        try:
            await self._db.read(lambda tx: geography.check(tx, workspace_id, pinned))
        except InvalidRequest as error:
            raise ModelError(Failure.REQUEST_FAILED, error.message, retryable=False) from error


def count(meter: Meter, tx: Tx, whose: tuple[str, str], written: Sequence[Record]) -> None:
    """Add what a session's model requests and searches used, when their ends are recorded.

    Args:
        whose: the workspace, and the model of the session's agent.
    """
    workspace_id, agents_model = whose
    for record in written:
        if searches := (record.private or {}).get("web_searches"):
            use = Use(agents_model, web_searches=cast("int", searches))
            meter.count(tx, Spender(workspace_id), use)
        usage: Any = record.body.get(_USAGES.get(record.type, ""))
        if not isinstance(usage, Mapping) or record.body.get("is_error"):
            continue
        if record.type != _ANSWERED and not any(usage.values()):
            continue
        private = record.private or {}
        model = str(private.get("model") or agents_model)
        hour = {"ephemeral_1h_input_tokens": private.get("cache_1h", 0)}
        meter.count(tx, Spender(workspace_id), read(model, {**usage, "cache_creation": hour}))
