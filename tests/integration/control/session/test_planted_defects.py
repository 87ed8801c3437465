"""The interleavings find mistakes: each of these is made on purpose, and they complain.

A defect is planted in ``decide``, in a place where it looks plausible and where a single session
that goes well shows nothing of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest

from intramuros.control.session import turn
from intramuros.control.session.calls import OUTSIDE, Call
from intramuros.control.session.drafts import processed
from intramuros.control.session.turn import Append, Command, Context
from intramuros.control.session.view import View
from intramuros.control.store.records import Draft
from tests.integration.control.session.test_interleavings import History, spread

RUNNING: Final = "session.status_running"
# Histories in which a defect must show; twenty thousand are played in the test of the loop itself.
WITHIN: Final = 3000

_true: Final = {name: getattr(turn, name) for name in vars(turn) if name.startswith("_")}


def _hears_everything(view: View, context: Context) -> Command:
    """An interrupt swallows what was said behind it."""
    heard: Any = _true["_interrupted"](view, context)
    known = {draft.id for draft in heard.drafts}
    behind = [r for r in view.waiting() if r.id not in known and r.type == "user.message"]
    return Append([*map(processed, behind), *heard.drafts])


def _repeats(calls: Sequence[Call], view: View, context: Context) -> Command:
    """What a dead server had begun is begun again."""
    forgot = [replace(call, started_epoch=None) for call in calls if _lost(call, context)]
    return _true["_perform"](forgot or calls, view, context)


def _lost(call: Call, context: Context) -> bool:
    return call.started_epoch not in (None, context.epoch)


def _goes_on_under_the_old_lease(view: View, context: Context) -> Command:
    opened = view.state.request
    if opened is not None:
        context = replace(context, epoch=opened.epoch)
    return _true["_sampling"](view, context)


def _forgets_denials(call: Call, confirmation: Any, view: View) -> Draft:
    return Draft("internal.note", {"denied": call.id})


def _waits_for_ever(view: View, context: Context) -> Command:
    return turn.Wait()


def _asks_again_and_again(view: View, context: Context) -> Command:
    if view.state.failures > context.limits.failures:
        view = replace(view, state=replace(view.state, failures=0))
    return _true["_next_request"](view, context)


def _announces_once(view: View, context: Context) -> Command:
    if view.state.blocking and view.state.announced:
        return turn.Wait()
    return _true["_requires_action"](view, context)


RUNNING: Final = "session.status_running"


def _not_ours(call: Call) -> bool:
    """Calls are made without waiting for their permission."""
    return call.kind in OUTSIDE and call.until_us is None and not call.refused


DEFECTS: Final[dict[str, tuple[str, Callable[..., Any]]]] = {
    "an interrupt swallows what comes behind it": ("_interrupted", _hears_everything),
    "an interrupt before a turn tells nobody of its end": ("_unbegun", lambda *_: False),
    "an interrupt leaves calls open": ("_close", lambda calls, text, view: []),
    "what may have had an effect is repeated": ("_perform", _repeats),
    "a request of a dead server is waited for": ("_sampling", _goes_on_under_the_old_lease),
    "a denial is not told to the model": ("_denied", _forgets_denials),
    "a worker that never answers is waited for": ("_give_up", lambda view, now_us: []),
    "a retry never comes": ("_rescheduling", _waits_for_ever),
    "retries never end": ("_next_request", _asks_again_and_again),
    "what is left to answer is not announced": ("_requires_action", _announces_once),
    "calls are made without permission": ("_ours", _not_ours),
    "what is said meanwhile is heard in mid-turn": (
        "_accompanying",
        lambda view: [r for r in view.waiting() if r.type == "user.message"],
    ),
}


def plays(within: int = WITHIN) -> int | None:
    """Return how many histories it takes until one complains; None if none does."""
    number = 0
    for seed in range(within // 50):
        for choices in spread(seed):
            number += 1
            try:
                history = History(choices, bool(number % 2), bool(number % 3))
                history.play()
                history.check_replay(sum(choices))
            except Exception:  # noqa: BLE001  however it shows
                return number
    return None


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_found(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, wrong = DEFECTS[defect]
    monkeypatch.setattr(turn, name, wrong)
    assert plays() is not None


def test_without_a_defect_nobody_complains() -> None:
    assert plays(200) is None
