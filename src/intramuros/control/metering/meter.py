"""The door in front of every model request: rates, money, and the count afterwards.

Whoever sends a request to a model asks here first and reports here after: the agent loop, and the
Messages API for its callers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio

from intramuros.control.catalog import allowances
from intramuros.control.identity import audit
from intramuros.control.metering import rate_limits, spend_limits, usage
from intramuros.control.metering.rates import Rates, Ticket
from intramuros.control.metering.spend_limits import TIER_CODE, Limit, Reached
from intramuros.control.metering.usage import Spender, Use
from intramuros.control.model.allowed import AllowList
from intramuros.control.model.catalogue import Catalogue
from intramuros.control.store.db import Database, Tx
from intramuros.kernel.errors import DomainError, InvalidRequest, RateLimited
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, to_micros

log = logger("metering")

# How late another process's change of a limit is noticed, in seconds; the contract grants an hour.
REFRESH_S: Final = 60.0
# A rough count, set right afterwards: a token is about four characters of text.
CHARS_PER_TOKEN: Final = 4
# An image or a document counts as about as much as a page, whatever its bytes.
MEDIA_TOKENS: Final = 1_600


@dataclass(frozen=True)
class Wish:
    """A model request that somebody wants to make.

    Args:
        content: what of it the model reads, as JSON values.
        promise_to: the session, which will come back when it is told how long to wait.
        trail: ids for the audit record of a refusal.
    """

    spender: Spender
    model: str
    content: Sequence[object]
    trail: Mapping[str, str]
    fast: bool = False
    promise_to: str | None = None


class Meter:
    """Limits and counts the use of models.

    Args:
        known: models and their prices.
        cap_cents: what models may cost in a month, whatever administrators set; 0 for no cap.
    """

    def __init__(
        self, db: Database, clock: Clock, rates: Rates, known: Catalogue, cap_cents: int = 0
    ) -> None:
        self._db = db
        self._cap_cents = cap_cents
        self._clock = clock
        self.rates = rates
        self._known = known
        self._capped = False
        self._changes = 0
        self._allowed: Mapping[str, AllowList] = {}

    async def refresh(self) -> None:
        """Learn the limits that are set."""
        known = (self.rates.generation, self._changes)
        values, capped, allowed = await self._db.read(
            lambda tx: (rate_limits.overrides(tx), spend_limits.any_set(tx), allowances.every(tx))
        )
        if known == (self.rates.generation, self._changes):  # else what we read is older
            self.rates.override(values)
            self._capped = capped
            self._allowed = allowed

    async def run(self, stop: Stop) -> None:
        """Learn of other processes' changes until a stop is asked for."""
        while not stop.requested:
            with anyio.move_on_after(REFRESH_S):
                await stop.wait()
            try:
                await self.refresh()
            except DomainError as error:
                log.warning("limits_not_refreshed", error=repr(error))

    def cap(self, tx: Tx) -> Limit | None:
        """Return the operator's own cap, or None."""
        return spend_limits.tier(tx, self._cap_cents)

    def capped(self, tx: Tx) -> None:
        """Look again, once this is durable, whether there are spend limits."""
        capped = spend_limits.any_set(tx)

        def known() -> None:
            self._capped = capped
            self._changes += 1

        tx.after_commit(known)

    def permitted(self, tx: Tx) -> None:
        """Look again, once this is durable, which models workspaces may use."""
        allowed = allowances.every(tx)

        def known() -> None:
            self._allowed = allowed
            self._changes += 1

        tx.after_commit(known)

    def allowed(self, workspace_id: str) -> AllowList | None:
        """Return the models that a workspace may use; None for every model."""
        return self._allowed.get(workspace_id)

    def check_model(self, workspace_id: str, model: str) -> None:
        """Refuse a model that a workspace may not use.

        Raises:
            PermissionDenied: naming it.
        """
        allowances.deny([model], self.allowed(workspace_id), self._known)

    async def admit(self, wish: Wish) -> Ticket:
        """Let a request through, or say why not.

        Raises:
            SpendLimitReached: there is no money left for it, by the organization's own limit.
            TierReached: the same by the operator's.
            RateLimited: too much at a time; with the time to wait.
            PermissionDenied: the workspace may not use the model.
        """
        self.check_model(wish.spender.workspace_id, wish.model)
        if self._capped or self._cap_cents:
            await self._check_money(wish)
        group = self.rates.groups.of_model(wish.model)
        workspace_id = wish.spender.workspace_id
        if not self.rates.limited(workspace_id, group):
            return Ticket()
        return self.rates.admit(
            workspace_id,
            group,
            estimate(wish.content),
            fast=wish.fast,
            promise_to=wish.promise_to,
        )

    def headers(self, spender: Spender, model: str) -> dict[str, str]:
        """Return the rate-limit headers of an answer."""
        return self.rates.headers(spender.workspace_id, self.rates.groups.of_model(model))

    def record(self, tx: Tx, ticket: Ticket, spender: Spender, use: Use) -> None:
        """Count a request that was made, with the transaction that records it."""
        self.count(tx, spender, use)
        tx.after_commit(lambda: self.rates.settle(ticket, use.tokens))

    def count(self, tx: Tx, spender: Spender, use: Use) -> None:
        """Add a request to the sums."""
        usage.record(tx, self._known, to_micros(self._clock.now()), spender, use)

    async def _check_money(self, wish: Wish) -> None:
        now_us = to_micros(self._clock.now())
        workspace_id = wish.spender.workspace_id
        limit = await self._db.read(
            lambda tx: spend_limits.reached(tx, workspace_id, now_us, self.cap(tx))
        )
        if limit is None:
            return
        fields = {**wish.trail, "limit": limit.id, "model": wish.model[:256]}
        await self._db.write(
            lambda tx: audit.record(
                tx, self._clock, "model.refused", workspace_id=workspace_id, fields=fields
            )
        )
        raise TierReached(limit) if limit.tier else SpendLimitReached(limit)


class SpendLimitReached(InvalidRequest):
    """A limit that the organization set for itself is used up: raise it, or wait."""

    def __init__(self, limit: Reached) -> None:
        super().__init__(limit.message, should_retry=False)


class TierReached(RateLimited):
    """The operator's own cap is used up: ask them, or wait (contract-2 R033)."""

    def __init__(self, limit: Reached) -> None:
        super().__init__(limit.message, code=TIER_CODE)


def estimate(content: object) -> int:
    """Return about how many tokens JSON values have."""
    return _chars(content) // CHARS_PER_TOKEN


def _chars(root: object) -> int:
    chars, rest = 0, [root]
    while rest:
        value: Any = rest.pop()
        if isinstance(value, str):
            chars += len(value)
        elif isinstance(value, Mapping):
            if value.get("type") == "base64":
                chars += MEDIA_TOKENS * CHARS_PER_TOKEN
                continue
            rest.extend(value.values())
        elif isinstance(value, Sequence) and not isinstance(value, bytes):
            rest.extend(value)
    return chars
