"""Which model answers when another cannot.

A request is passed on to the models of its entry's ``fallback``, in their order, when the provider
of the first one refuses us for good (its key, its bill, a model it does not know), or when a
failure that may pass (overload, rate limit, 5xx, timeout, broken stream) was tried again as often
as ``fallback_after`` says. A request that is itself wrong is not passed on, and neither is a
conversation that is too long: the loop makes it shorter.

What another model thought earlier in the conversation is signed by that one: a model that refuses
to take it back is asked again at once, without it. The log keeps it for the model that had it.

A model that was passed over for a failure of its provider rests for a while: requests go to the
others at once, and to it again if they fail. What answered is in the log; nothing else is kept.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import anyio

from intramuros.control.model.base import Delta, ModelError, ModelReply, ModelRequest
from intramuros.control.model.catalogue import Catalogue
from intramuros.control.model.thoughts import thoughts, without_thoughts
from intramuros.kernel.telemetry import logger

log = logger("models")

# Long enough to spare every request of a turn the wait, short enough to come back soon.
REST_S: Final = 30.0

Show = Callable[[Delta], None]
Ask = Callable[[ModelRequest, Show], Awaitable[ModelReply]]


class Chain:
    """Asks models in turn.

    Args:
        ask: asks the one that the request names.
        now: seconds of any clock that never goes back.
    """

    def __init__(
        self, ask: Ask, known: Catalogue, now: Callable[[], float] = anyio.current_time
    ) -> None:
        self._ask = ask
        self._known = known
        self._now = now
        self._resting: dict[str, float] = {}

    async def run(self, request: ModelRequest, on_delta: Show) -> ModelReply:
        """Return the first reply that comes; it names the model if it is not the one asked for.

        Raises:
            ModelError: of several models, the first one's.
        """
        others = self._others(request)
        shown = _Once(on_delta)
        first: ModelError | None = None
        if not (others and self._rests(request.model)):
            try:
                return await self._ask(request, shown.next())
            except ModelError as error:
                if not others or not self._passes_on(error, request):
                    raise
                first = error
        for name in others:
            reply = await self._try(replace(request, model=name), request.model, shown)
            if reply is not None:
                if first is not None and first.retryable:
                    self._resting[request.model] = self._now() + REST_S
                return replace(reply, model=name)
        if first is not None:
            raise first
        self._resting.pop(request.model, None)
        return await self._ask(request, shown.next())

    async def _try(self, request: ModelRequest, asked: str, shown: "_Once") -> ModelReply | None:
        log.warning("model_fallback", model=asked, asks=request.model)
        try:
            return await self._ask(request, shown.next())
        except ModelError as error:
            log.warning("model_fallback_failed", model=request.model, error=error.message)
            if not error.thoughts or not any(thoughts(request.messages)):
                return None
        rest = replace(request, messages=without_thoughts(request.messages))
        return await self._try(rest, asked, shown)

    def _others(self, request: ModelRequest) -> list[str]:
        entry = self._known.find(request.model)
        allowed = request.allowed
        return [
            name
            for name in (entry.fallback if entry else ())
            if allowed is None or allowed.permits(name, self._known)
        ]

    def _passes_on(self, error: ModelError, request: ModelRequest) -> bool:
        if error.too_long or error.ours:
            return False
        entry = self._known.find(request.model)
        tried = entry is not None and request.failures >= entry.fallback_after
        passes = not error.retryable or request.last_try or tried
        if passes:
            log.warning("model_gives_way", model=request.model, error=error.message)
        return passes

    def _rests(self, model: str) -> bool:
        until = self._resting.get(model)
        if until is None or until > self._now():
            return until is not None
        del self._resting[model]
        return False


class _Once:
    """Shows one model's deltas: a preview that began is not begun again by another model.

    The event that concludes it is whole all the same.
    """

    def __init__(self, on_delta: Show) -> None:
        self._on_delta = on_delta
        self._begun = False

    def next(self) -> Show:
        return _unseen if self._begun else self._show

    def _show(self, delta: Delta) -> None:
        self._begun = True
        self._on_delta(delta)


def _unseen(_: Delta) -> None:
    """Show nothing."""
