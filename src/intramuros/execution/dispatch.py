"""Which tool calls are unanswered, permitted and ours, in what order, and when a session is idle.

Pure: events and times come in, the next call and the idle deadline come out. The rules are
contract 22.4 to 22.9 and 22.15 to 22.20; anything unknown counts as "not permitted".
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MAX_ID_CHARS: Final = 256
_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,256}", re.ASCII)
# The overlap of a fresh stream with the history is short: what was emitted while we listed.
_OVERLAP_EVENTS: Final = 1000


@dataclass(frozen=True)
class ToolUse:
    """A call the agent made."""

    event_id: str
    name: str
    arguments: Mapping[str, Any]
    custom: bool = False
    permission: str | None = None
    """``evaluated_permission``; None when the event had none."""
    thread_id: str | None = None


@dataclass(frozen=True)
class Answered:
    """A result arrived for a call; ``by_server`` for an ``agent.tool_result``."""

    event_id: str
    call_id: str
    by_server: bool = False


@dataclass(frozen=True)
class Verdict:
    """A person allowed a call or, with any other value, denied it."""

    event_id: str
    call_id: str
    allow: bool


@dataclass(frozen=True)
class ThreadEnded:
    """A thread takes no more input."""

    event_id: str
    thread_id: str


@dataclass(frozen=True)
class Idle:
    """The session waits; ``turn_over`` unless it requires an action."""

    event_id: str
    turn_over: bool


@dataclass(frozen=True)
class Running:
    """The session's turn goes on."""

    event_id: str


@dataclass(frozen=True)
class Ended:
    """The session is terminated or deleted."""

    event_id: str
    deleted: bool


@dataclass(frozen=True)
class Other:
    """Anything else: it only shows that something happens."""

    event_id: str


@dataclass(frozen=True)
class Interrupt:
    """Somebody stopped what the session was doing."""

    event_id: str


Event = ToolUse | Answered | Verdict | ThreadEnded | Idle | Running | Ended | Interrupt | Other

# Neither activity nor idleness (contract 22.15).
_NEUTRAL: Final = (Verdict, ThreadEnded)


def read_event(raw: object) -> Event:
    """Read an event as the SDK or JSON gives it; a malformed one becomes :class:`Other`."""
    kind = _text(raw, "type") or ""
    event_id = _id(raw, "id") or ""
    if kind in ("agent.tool_use", "agent.custom_tool_use"):
        return _tool_use(raw, event_id, custom=kind == "agent.custom_tool_use")
    if kind in _ANSWERS:
        call_id = _id(raw, str(_ANSWERS[kind]))
        return (
            Answered(event_id, call_id, kind == "agent.tool_result") if call_id else Other(event_id)
        )
    if kind == "user.tool_confirmation":
        call_id = _id(raw, "tool_use_id")
        allow = _member(raw, "result") == "allow"
        return Verdict(event_id, call_id, allow) if call_id else Other(event_id)
    if kind == "session.thread_status_terminated":
        thread = _id(raw, "session_thread_id")
        return ThreadEnded(event_id, thread) if thread else Other(event_id)
    if kind == "session.status_idle":
        reason = _member(_member(raw, "stop_reason"), "type")
        return Idle(event_id, turn_over=reason != "requires_action")
    if kind == "session.status_running":
        return Running(event_id)
    if kind == "user.interrupt":
        return Interrupt(event_id)
    if kind in ("session.status_terminated", "session.deleted"):
        return Ended(event_id, deleted=kind == "session.deleted")
    return Other(event_id)


@dataclass
class Dispatch:
    """What one worker knows about one session's calls.

    ``tools`` are the names it serves; all others are left to their owners (contract 22.7).
    ``hosted`` says that this is a cloud environment, where every result of a sandbox call is an
    ``agent.tool_result``: ours, and those that the server gives in our stead. ``turns`` counts how
    often the session was seen to go on.
    """

    tools: frozenset[str]
    hosted: bool = False
    ended: Ended | None = None
    turns: int = 0
    interrupted: bool = False
    _open: dict[str, ToolUse] = field(default_factory=dict)
    _answered: set[str] = field(default_factory=set)
    _verdicts: dict[str, bool] = field(default_factory=dict)
    _threads_ended: set[str] = field(default_factory=set)
    _set_aside: set[str] = field(default_factory=set)
    _overlap: frozenset[str] = frozenset()
    _turn_over: bool = False
    _turn_open: bool = True  # until the history tells otherwise
    _idle_since: float | None = None
    _was_held: bool = False

    def history(self, events: Iterable[Event], at: float) -> None:
        """Take in the whole history, as after each (re)connect.

        Calls that were set aside come back: their results are tried again.
        """
        recent: list[str] = []
        turn_over = False
        self._turn_open = False
        for event in events:
            self._apply(event)
            recent.append(event.event_id)
            if not isinstance(event, _NEUTRAL):
                turn_over = isinstance(event, Idle) and event.turn_over
        self._overlap = frozenset(recent[-_OVERLAP_EVENTS:]) - {""}
        self._set_aside.clear()
        self._close()
        # Ungated calls of any owner mean that the turn is not really over (contract 22.17).
        self._turn_over = turn_over and all(self._gated(call) for call in self._open.values())
        self._idle_since = at if self._turn_over else None
        self._hold(at)

    def live(self, event: Event, at: float) -> None:
        """Take in one event of the stream; one that the history already had changes nothing."""
        if event.event_id in self._overlap:
            return
        self._apply(event)
        if isinstance(event, Interrupt):
            self.interrupted = True
        self._close()
        if not isinstance(event, _NEUTRAL):
            self._turn_over = isinstance(event, Idle) and event.turn_over
            self._idle_since = at if self._turn_over else None
        self._hold(at)

    def answered(self, call_id: str, at: float) -> None:
        """Note that our result for a call was taken."""
        self._answered.add(call_id)
        self._turn_open = True
        self._close()
        self._hold(at)

    def set_aside(self, call_id: str) -> None:
        """Leave a call whose result was refused until the next history (contract 22.13)."""
        self._set_aside.add(call_id)

    def took_interrupt(self) -> bool:
        """Tell whether somebody stopped the session, live, since this was asked last."""
        taken, self.interrupted = self.interrupted, False
        return taken

    def next_call(self) -> ToolUse | None:
        """Return the first call to run now, in the order the agent made them."""
        for call in self._open.values():
            ours = call.name in self.tools and call.event_id not in self._set_aside
            if ours and self._permitted(call):
                return call
        return None

    def wanted(self, call_id: str) -> bool:
        """Tell whether a result of this call would still be taken."""
        return call_id in self._open

    def idle_deadline(self, max_idle_s: float) -> float | None:
        """Return when the session counts as idle, on the caller's clock; None while it does not."""
        if self._was_held or self._idle_since is None:
            return None
        return self._idle_since + max_idle_s

    def resting(self) -> bool:
        """Tell whether nothing is under way that another worker would have to go on with.

        A turn that requires an action counts as under way: what was just answered, by us or by
        another client, makes the agent go on and call again.
        """
        ours = any(call.name in self.tools for call in self._open.values())
        return not ours and not self._turn_open

    def _apply(self, event: Event) -> None:
        match event:
            case ToolUse():
                # A verdict or an answer may come first in a list that is sorted by processing.
                self._open.setdefault(event.event_id, event)
            case Answered(call_id=call_id, by_server=by_server):
                call = self._open.get(call_id)
                # The server's own result settles only what is not ours (contract 22.4).
                foreign = call is not None and call.name not in self.tools
                if not by_server or self.hosted or foreign:
                    self._answered.add(call_id)
            case Verdict(call_id=call_id, allow=allow):
                # The first denial stands: any sign of a denial wins.
                self._verdicts[call_id] = allow and self._verdicts.get(call_id, True)
            case ThreadEnded(thread_id=thread_id):
                self._threads_ended.add(thread_id)
            case Idle(turn_over=turn_over):
                self._turn_open = not turn_over
            case Running():
                self._turn_open = True
                self.turns += 1
            case Ended():
                self.ended = event
            case Other() | Interrupt():
                pass

    def _close(self) -> None:
        """Drop the calls that nobody waits for: answered, denied, or of an ended thread."""
        self._open = {
            call_id: call
            for call_id, call in self._open.items()
            if call_id not in self._answered
            and call.thread_id not in self._threads_ended
            and call.permission != "deny"
            and self._verdicts.get(call_id) is not False
        }

    def _permitted(self, call: ToolUse) -> bool:
        return not self._gated(call) or self._verdicts.get(call.event_id) is True

    def _gated(self, call: ToolUse) -> bool:
        return call.permission not in (None, "allow")

    def _hold(self, at: float) -> None:
        """Stop the clock while gated calls are open; it starts anew after the last one."""
        held = any(self._gated(call) for call in self._open.values())
        if self._was_held and not held and self._turn_over:
            self._idle_since = at
        self._was_held = held


def _tool_use(raw: object, event_id: str, *, custom: bool) -> Event:
    name, arguments = _text(raw, "name"), _member(raw, "input")
    if not event_id or not name:
        return Other(event_id)
    permission = _member(raw, "evaluated_permission")
    if permission is not None and not isinstance(permission, str):
        permission = "malformed"
    return ToolUse(
        event_id,
        name,
        # The tool itself refuses arguments that are no object, so that the agent reads why.
        {str(key): value for key, value in arguments.items()}
        if isinstance(arguments, Mapping)
        else {"input": arguments},
        custom,
        permission,
        _id(raw, "session_thread_id"),
    )


def _member(raw: object, name: str) -> Any:  # noqa: ANN401  foreign data
    if isinstance(raw, Mapping):
        return raw.get(name)
    return getattr(raw, name, None)


def is_id(value: object) -> bool:
    """Tell whether a value of the control plane's is an id: it becomes a name, a URL, a record."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _id(raw: object, name: str) -> str | None:
    value = _member(raw, name)
    return value if is_id(value) else None


def _text(raw: object, name: str) -> str | None:
    value = _member(raw, name)
    return value if isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS else None


_ANSWERS: Final[Mapping[object, str]] = {
    "user.tool_result": "tool_use_id",
    "user.custom_tool_result": "custom_tool_use_id",
    "agent.tool_result": "tool_use_id",
}
