"""Requests of the Messages API to models, let through and counted."""

from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from intramuros.control.identity import audit
from intramuros.control.inference.rounds import Emit, Json, Source
from intramuros.control.metering.meter import Meter, Wish
from intramuros.control.metering.rates import Ticket
from intramuros.control.metering.tap import Tap
from intramuros.control.metering.usage import Spender, Use
from intramuros.control.store.db import Database, Tx
from intramuros.control.tracing.recorder import Attributes, Recorder
from intramuros.kernel.timing import Clock, to_micros

# What was used is written down even if the client has left, but not for ever.
RECORD_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class Asker:
    """Whose request it is, and of what.

    Args:
        headers: of the answer; where the caller stands with its limits is added.
    """

    spender: Spender
    request_id: str
    body: Json
    headers: MutableMapping[str, str]

    @property
    def model(self) -> str:
        """The model that is asked."""
        return str(self.body["model"])


class Counted:
    """One request that was let through; feed its tap, and close it before the answer ends."""

    def __init__(self, door: "Door", asker: Asker, ticket: Ticket) -> None:
        self.tap = Tap(asker.model)
        self._door = door
        self._asker = asker
        self._ticket = ticket
        self._closed = False
        self.begun_us = door.now_us()

    async def close(self) -> None:
        """Record what was used; a second time does nothing."""
        if not self._closed:
            self._closed = True
            await self._door.record(self._asker, self._ticket, self)


class Door:
    """Lets requests through to models, and records each when it is over."""

    def __init__(self, db: Database, clock: Clock, meter: Meter, recorder: Recorder) -> None:
        self._recorder = recorder
        self._db = db
        self._clock = clock
        self._meter = meter

    @asynccontextmanager
    async def open(self, asker: Asker) -> AsyncIterator[Counted]:
        """Let a request through.

        Raises:
            DomainError: a limit of the organization's own is used up.
        """
        body = asker.body
        wish = Wish(
            asker.spender,
            asker.model,
            (body.get("system"), body.get("messages"), body.get("tools")),
            {"request": asker.request_id},
            fast=body.get("speed") == "fast",
        )
        try:
            ticket = await self._meter.admit(wish)
        finally:
            asker.headers.update(self._meter.headers(asker.spender, asker.model))
        counted = Counted(self, asker, ticket)
        try:
            yield counted
        finally:
            with anyio.move_on_after(RECORD_TIMEOUT_S, shield=True):
                await counted.close()

    def count_tokens(self, asker: Asker) -> None:
        """Let a request through that only counts tokens.

        Raises:
            RateLimited: too many.
            PermissionDenied: the workspace may not use the model.
        """
        self._meter.check_model(asker.spender.workspace_id, asker.model)
        rates, workspace_id = self._meter.rates, asker.spender.workspace_id
        group = rates.groups.of_type("token_count")
        try:
            rates.admit(workspace_id, group)
        finally:
            asker.headers.update(rates.headers(workspace_id, group))

    def now_us(self) -> int:
        """Return the time in microseconds since the epoch."""
        return to_micros(self._clock.now())

    async def record(self, asker: Asker, ticket: Ticket, counted: Counted) -> None:
        """Write down what a request used, together with the sums; nothing if it got no answer."""
        use = counted.tap.use()
        if use is None:
            self._meter.rates.settle(ticket, None)
            return
        fields = {
            "request": asker.request_id,
            "model": asker.model[:256],
            **use.tokens._asdict(),
            "web_searches": use.web_searches,
        }

        def work(tx: Tx) -> None:
            audit.record(
                tx,
                self._clock,
                "messages.usage",
                workspace_id=asker.spender.workspace_id,
                fields=fields,
            )
            self._meter.record(tx, ticket, asker.spender, use)
            workspace_id, told = asker.spender.workspace_id, _told(asker, use)
            self._recorder.message(tx, workspace_id, asker.request_id, counted.begun_us, told)

        await self._db.write(work, ())


def _told(asker: Asker, use: Use) -> Attributes:
    tokens = use.tokens
    return {
        "gen_ai.request.model": asker.model[:256],
        "gen_ai.usage.input_tokens": tokens.input,
        "gen_ai.usage.output_tokens": tokens.output,
        "gen_ai.usage.cache_read_input_tokens": tokens.cache_read,
        "gen_ai.usage.cache_creation_input_tokens": tokens.cache_write_5m + tokens.cache_write_1h,
    }


class MeteredSource:
    """A source each of whose requests is let through and counted by itself."""

    def __init__(self, inner: Source, door: Door, asker: Asker) -> None:
        self._inner = inner
        self._door = door
        self._asker = asker

    async def run(self, body: Json, emit: Emit) -> None:
        """Send one request and pass on each event of its stream.

        Raises:
            DomainError: refused by a limit or the provider, failed or broken off.
        """
        asker = Asker(self._asker.spender, self._asker.request_id, body, self._asker.headers)
        async with self._door.open(asker) as counted:
            counted.tap.begin(streamed=True)

            async def tee(event: Json) -> None:
                counted.tap.event(event)
                await emit(event)

            await self._inner.run(body, tee)
