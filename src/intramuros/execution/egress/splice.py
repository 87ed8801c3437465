"""Copy between two streams, both ways: WebSockets, and hosts whose TLS is not ended here."""

from dataclasses import dataclass
from typing import Final

import anyio

from intramuros.execution.egress.ledger import Passage, Tally
from intramuros.execution.egress.leg import CHUNK_BYTES, GONE, Leg
from intramuros.execution.egress.limits import LimitReached, Meter
from intramuros.execution.egress.replace import Replacer

# A message whose end looks like the beginning of a secret is held back no longer than this, in
# seconds: unlike a body, it has an end that we do not see.
HOLD_S: Final = 0.2
# How long, in seconds, what a host has said may still come after one side has gone.
AFTER_S: Final = 1.0


@dataclass
class Pair:
    """The two streams, and what blots secrets out of what comes back."""

    inside: Leg
    outside: Leg
    blotter: Replacer | None = None


async def splice(pair: Pair, tally: Tally, meter: Meter) -> None:
    """Copy until both directions are done, either side fails, or a limit is reached.

    Never raises but for cancellation; ``tally.ended`` says why it ended.
    """
    tally.ended = "complete"

    async def outwards(scope: anyio.CancelScope) -> None:
        try:
            while data := await _receive(pair.inside):
                meter.send(len(data))
                await meter.hold(len(data))
                await _pass(pair.outside, data, tally.sent, meter)
            await anyio.sleep(await _last_word(pair.outside, meter))
        except LimitReached as error:
            tally.ended = error.rule
        except GONE:
            # The host is gone for us; what it has said before is still on its way.
            await anyio.sleep(AFTER_S)
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(outwards, group.cancel_scope)
        try:
            await _inwards(pair, tally, meter)
        except LimitReached as error:
            tally.ended = error.rule
        except GONE:
            tally.ended = "sandbox_gone"
        group.cancel_scope.cancel()


async def _inwards(pair: Pair, tally: Tally, meter: Meter) -> None:
    blotter = pair.blotter
    holding = False
    while True:
        data: bytes | None = None
        if holding:
            with anyio.move_on_after(HOLD_S):
                data = await _receive(pair.outside)
        else:
            data = await _receive(pair.outside)
        if data:
            meter.receive(len(data))
            await meter.hold(len(data))
            tally.received.add(data)
        if blotter is None:
            settled = data or b""
        elif data:
            settled, holding = blotter.feed(data), True
        else:
            settled, holding = blotter.finish(), False
        if settled:
            await pair.inside.send(settled, meter.limits.silence_s)
        if data == b"":
            tally.scrubbed = blotter.count if blotter is not None else 0
            return


async def _last_word(stream: Leg, meter: Meter) -> float:
    """Say that nothing more will come; return how long, in seconds, to listen after that."""
    try:
        await stream.send_eof()
    except NotImplementedError:
        # TLS ends both ways at once: whoever hung up waits for no answer.
        return AFTER_S
    return meter.limits.silence_s


async def _receive(stream: Leg) -> bytes:
    """Return what comes; nothing at the end, however it came."""
    try:
        return await stream.receive(CHUNK_BYTES)
    except GONE:
        return b""


async def _pass(stream: Leg, data: bytes, passage: Passage, meter: Meter) -> None:
    await stream.send(data, meter.limits.silence_s)
    passage.add(data)
