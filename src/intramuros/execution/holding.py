"""Hold back the result of a call until a person allows it to leave.

What is held is in the journal, so that a worker that was killed goes on waiting. Without an answer
in time, and whenever something fails, it does not leave; the model reads which rules it was.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

from anyio import to_thread

from intramuros.execution.journal import Held, Journal, Result
from intramuros.execution.outflow.gate import Gate
from intramuros.execution.outflow.results import Filtered, withheld
from intramuros.execution.record import RecordFailed
from intramuros.execution.releases import Answer, Matter, Question, Releases
from intramuros.kernel.telemetry import logger

log = logger("holding")

# Between two looks for an answer.
LOOK_S: Final = 2.0


@dataclass(frozen=True)
class Holding:
    """What waits in one session.

    Args:
        releases: asks.
        stopping: tells whether the worker drains; what is held stays in the journal then.
        pause: waits for about so many seconds, or until something changes.
    """

    session_id: str
    journal: Journal
    gate: Gate
    releases: Releases
    stopping: Callable[[], bool]
    pause: Callable[[float], Awaitable[None]]

    async def hold(self, call_id: str, filtered: Filtered, *, is_error: bool) -> Result | None:
        """Hold back a result and return what may leave; None if the worker stops before that.

        Raises:
            RecordFailed: it could not be noted, or the question not recorded.
        """
        allowed = filtered.allowed or []
        excerpt = "\n".join(b["text"] for b in filtered.content if b["type"] == "text")
        shown = excerpt[: self.gate.policy.excerpt_chars]
        data = json.dumps(allowed, sort_keys=True).encode()
        what = Matter("tool_result", filtered.found, len(data), self.gate.digest(data), shown)
        asked = self.releases.question(what, call_id)
        held = Held(Result(allowed, is_error), asdict(asked), withheld(filtered.found))
        note = partial(self.journal.hold, self.session_id, call_id, held)
        try:
            await to_thread.run_sync(note)
        except OSError as error:
            raise RecordFailed(str(error)) from error
        return await self.wait(held)

    async def wait(self, held: Held) -> Result | None:
        """Wait for the answer about what is held; results and errors as for :meth:`hold`."""
        try:
            asked = Question(**held.question)
        except TypeError:
            log.error("held_result_unreadable")
            return _denied(held, Answer(False, "It could not be asked about."))
        while not self.stopping():
            answer = await self.releases.look(asked)
            if answer is not None:
                return held.result if answer.allowed else _denied(held, answer)
            await self.pause(LOOK_S)
        return None

    async def resume(self, call_id: str) -> Result | None:
        """Go on waiting for what a worker before us held back; errors as for :meth:`hold`."""
        try:
            held = await to_thread.run_sync(self.journal.held, self.session_id, call_id)
        except OSError as error:
            raise RecordFailed(str(error)) from error
        if held is None:
            raise RecordFailed("what was held back cannot be read")
        return await self.wait(held)


def _denied(held: Held, answer: Answer) -> Result:
    return Result([*held.denied, {"type": "text", "text": answer.why}], is_error=True)
