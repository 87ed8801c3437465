"""What a dream does next: a function of its row and of what surrounds it. Pure.

::

    pending ──► start ──► copy … ──► ask ──► serve … ──► ask … ──► complete
       │                                                              │
       └──── cancel, fail: halt the session, wait until it rests ─────┴──► close

Whoever performs an act does it, and the change of the row, in one transaction; so a process that
dies between two acts leaves nothing half done, and the next one decides from the same facts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

from intramuros.control.session.phase import Phase
from intramuros.control.session.state import State
from intramuros.protocol.resources.dreams import FINAL, ErrorType, Status

_MIB: Final = 1024 * 1024
_MICROS: Final = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Bounds of one dream.

    Args:
        budget_s: how long it may run, in seconds.
        store_bytes: text of the input store, all memories together.
        part_chars: the most that one part shows the model at once; the model's window may ask for
            less. What its tools bring in a part is bounded by the same number again.
        stumbles: acts that may fail for a reason of the server's before the dream does.
    """

    budget_s: float = 6 * 3600.0
    store_bytes: int = 32 * _MIB
    part_chars: int = 240_000
    stumbles: int = 5


@dataclass(frozen=True)
class Progress:
    """How far a dream has come.

    Args:
        copied: the last path of the input store that was taken over; None when all are.
        part: how many parts the model was given.
        path: the last memory shown; None when all were.
        session: which of the sessions is read next, by its place among the sorted ids.
        seq: the last row read of that session.
        room: characters that the tools may still bring in this part.
        last: whether everything was given to the model.
        stumbles: acts that failed for a reason of the server's.
    """

    copied: str | None = ""
    part: int = 0
    path: str | None = ""
    session: int = 0
    seq: int = 0
    room: int = 0
    last: bool = False
    stumbles: int = 0

    def dump(self) -> dict[str, Any]:
        """Return the progress as JSON values; ``Progress(**dumped)`` gives it back."""
        return dict(vars(self))


@dataclass(frozen=True)
class Dream:
    """A dream as it is stored; times in microseconds.

    Args:
        store_id: the memory store it reads.
        session_ids: the sessions it reads, sorted.
        updates: whether it writes into the store it reads.
        output_id: the store it writes into, once there is one.
        session_id: its own session, which exists once it has started.
        stopped_us: when nothing of it could act any more.
    """

    id: str
    workspace_id: str
    status: Status
    inputs: tuple[Mapping[str, Any], ...]
    store_id: str
    session_ids: tuple[str, ...]
    model: Mapping[str, Any]
    instructions: str | None
    updates: bool
    output_id: str | None
    session_id: str
    error: Mapping[str, str] | None
    usage: Mapping[str, int]
    progress: Progress = field(repr=False)
    created_by: str
    created_us: int
    started_us: int | None = None
    ended_us: int | None = None
    stopped_us: int | None = None
    archived_us: int | None = None

    @property
    def ended(self) -> bool:
        """Whether its status is final."""
        return self.status in FINAL


StoreIs = Literal["open", "archived", "gone"]


@dataclass(frozen=True)
class Surroundings:
    """What a dream depends on, as it is now.

    Args:
        store: the input store.
        store_bytes: its size; asked for only before the start.
        output: the store it writes into; open before there is one.
        lost_session: an input session that is gone.
        state: its own session, or None where there is none.
        complaint: what that session last reported as an error.
    """

    store: StoreIs
    output: StoreIs = "open"
    store_bytes: int = 0
    lost_session: str | None = None
    state: State | None = None
    complaint: str | None = None


@dataclass(frozen=True)
class Start:
    """Make the session and the output store."""


@dataclass(frozen=True)
class Copy:
    """Take over more of the input store."""


@dataclass(frozen=True)
class Ask:
    """Give the model the next part, or find that there is none."""


@dataclass(frozen=True)
class Serve:
    """Answer the model's calls."""


@dataclass(frozen=True)
class Fail:
    """End as failed."""

    type: ErrorType
    message: str


@dataclass(frozen=True)
class Halt:
    """Interrupt the session."""


@dataclass(frozen=True)
class Close:
    """Write the report, archive the session, and be as ``status`` from then on.

    ``report`` is False when the report itself kept the dream from ending.
    """

    status: Status
    report: bool = True


@dataclass(frozen=True)
class Wait:
    """Nothing to do until the session rests."""


@dataclass(frozen=True)
class Done:
    """Nothing to do ever again."""


Act = Start | Copy | Ask | Serve | Fail | Halt | Close | Wait | Done


def decide(dream: Dream, seen: Surroundings, now_us: int, limits: Limits) -> Act:
    """Return what the dream does next."""
    if dream.stopped_us is not None:
        return Done()
    if dream.ended:
        return _wind_down(dream, seen.state, limits)
    if (problem := _problem(dream, seen, now_us, limits)) is not None:
        return problem
    if dream.status == "pending":
        return Start()
    if dream.progress.copied is not None:
        return Copy()
    return _running(dream, cast("State", seen.state), seen.complaint)


def next_part(progress: Progress, room: int, *, last: bool) -> Progress:
    """Return the progress with one more part given."""
    return replace(progress, part=progress.part + 1, room=room, last=last)


def part_chars(limits: Limits, window_tokens: int | None) -> int:
    """Return how much one part may show: a third of the model's window, at three a token.

    The rest is for what tools bring, the replies, and text that takes more tokens than that.

    Args:
        window_tokens: what the model's catalogue entry says, if it does.
    """
    return min(limits.part_chars, (window_tokens or 200_000))


def _wind_down(dream: Dream, state: State | None, limits: Limits) -> Act:
    close = Close(dream.status, report=dream.progress.stumbles < 2 * limits.stumbles)
    if state is None or state.phase is Phase.TERMINATED:
        return close
    if any(item.type == "user.interrupt" for item in state.queued):
        return Wait()
    if state.phase is Phase.IDLE and not state.due:
        return close
    return Halt()


def _problem(dream: Dream, seen: Surroundings, now_us: int, limits: Limits) -> Fail | None:
    if seen.store != "open":
        why = "archived" if seen.store == "archived" else "deleted"
        message = f"the input memory store {dream.store_id} was {why} before the dream ended"
        return Fail("input_memory_store_unavailable", message)
    if seen.lost_session is not None:
        message = f"the input session {seen.lost_session} was deleted before the dream ended"
        return Fail("input_session_unavailable", message)
    if dream.progress.stumbles >= limits.stumbles:
        return Fail("internal_error", "the server could not go on; its log says why")
    if dream.started_us is None:
        if seen.store_bytes <= limits.store_bytes:
            return None
        return Fail(
            "input_memory_store_too_large",
            f"the input memory store holds {seen.store_bytes} bytes; "
            f"a dream reads at most {limits.store_bytes}",
        )
    if now_us - dream.started_us > limits.budget_s * _MICROS:
        return Fail("timeout", f"the dream ran longer than {limits.budget_s:g} seconds")
    if seen.output != "open":
        return Fail("internal_error", "the output memory store was archived or deleted")
    if seen.state is None or seen.state.phase is Phase.TERMINATED:
        return Fail("internal_error", "the session of the dream has ended")
    return None


def _running(dream: Dream, state: State, complaint: str | None) -> Act:
    if state.phase is Phase.REQUIRES_ACTION and state.blocking and not state.queued:
        return Serve()
    if state.phase is not Phase.IDLE or state.due:
        return Wait()
    if state.stop not in (None, "end_turn"):
        return Fail("internal_error", complaint or f"the model ended with {state.stop}")
    return Close("completed") if dream.progress.last else Ask()
