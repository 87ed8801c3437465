"""Each thread has its own window, and its own summary."""

import pytest

from intramuros.control.model.base import ModelReply
from intramuros.control.session.compaction import MAX_IN_A_ROW
from intramuros.control.session.turn import CallModel
from tests.fakes.band import Band, definition, delegate, lead
from tests.fakes.loop import ROWS, mcp_toolset, text, use
from tests.fakes.messages_rules import check_messages
from tests.unit.control.session.test_compaction import (
    COMPACTED,
    LIMITS,
    SUMMARY,
    reply,
    said,
    texts,
)

SCOUT = definition("scout", mcp_toolset({"type": "always_allow"}))
CALL = reply(use("mcp__db__query", "toolu_q"), tokens=9_000, stop="tool_use")


def begun(*scout: ModelReply) -> tuple[Band, str]:
    """A coordinator whose scout has filled its window with one call."""
    band = Band(
        lead(SCOUT),
        limits=LIMITS,
        lead=[delegate("scout"), text("waiting"), text("done")],
        scout=[CALL, *scout],
    )
    band.mcp.append(ROWS)
    band.log.say("go")
    for _ in range(30):
        band.next()
        if not band.flights:
            break
        for thread_id in list(band.flights):
            band.land(thread_id)
    crew = band.log.state.crew
    assert crew is not None
    child = next(r.thread_id for r in band.log.records if r.thread_id is not None)
    return band, child


def test_a_child_goes_on_with_what_it_was_told_to_do() -> None:
    band, child = begun(reply(said(SUMMARY), tokens=9_000), text("41 rows"))
    assert COMPACTED in band.types(child)
    assert COMPACTED not in band.types()
    last = [request for name, request in band.requests if name == "scout"][-1]
    check_messages(last.messages)
    assert "<user>\ndo scout\n</user>" in texts(last)
    assert SUMMARY in texts(last)
    coordinator = [request for name, request in band.requests if name == "lead"][-1]
    assert "41 rows" in texts(coordinator)
    assert SUMMARY not in texts(coordinator)
    assert not any(isinstance(effect, CallModel) for effect in band.flights.values())


@pytest.mark.rule("c15_21")
def test_a_child_that_no_summary_helps_ends_and_says_so() -> None:
    band, child = begun(*[reply(tokens=9_000)] * MAX_IN_A_ROW)
    assert "session.thread_status_terminated" in band.types(child)
    errors = [r for r in band.shown() if r.type == "session.error"]
    error = errors[-1].body["error"]
    assert error["type"] == "compaction_limit_reached_error"  # type: ignore[index,call-overload]
    coordinator = [request for name, request in band.requests if name == "lead"][-1]
    assert "its thread has ended" in texts(coordinator)
