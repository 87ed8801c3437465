from dataclasses import replace
from typing import Any

import pytest

from intramuros.control.session.drafts import thread_ended
from intramuros.control.session.fold import final, fold
from intramuros.control.session.fold_thread import IllegalRecord
from intramuros.control.session.phase import Phase, Status
from intramuros.control.store.records import Draft
from tests.fakes.band import Band
from tests.fakes.flows import MAPS, flow, phase, started, step
from tests.fakes.log import MemoryLog
from tests.fakes.loop import text, use, uses


def crewed() -> MemoryLog:
    return MemoryLog(crewed=True)


def child(thread_id: str = "sthr_2", run_id: str | None = None) -> Draft:
    body = {"session_thread_id": thread_id, "agent_name": "scout", "workflow_run_id": run_id}
    return Draft("session.thread_created", body)


def status(kind: str, thread_id: str = "sthr_main", **body: object) -> Draft:
    named = {"session_thread_id": thread_id, "agent_name": "x", **body}
    own = None if thread_id == "sthr_main" else thread_id
    return Draft(f"session.thread_status_{kind}", named, thread_id=own)


def idle(*asks: str) -> Draft:
    reason: dict[str, Any] = {"type": "requires_action" if asks else "end_turn"}
    return Draft("session.status_idle", {"stop_reason": {**reason, "event_ids": list(asks)}})


@pytest.mark.rule("c10_25")
def test_a_sessions_status_says_what_its_threads_add_up_to() -> None:
    log = crewed()
    log.append(child(), Draft("session.status_running"), status("running", "sthr_2"))
    assert log.state.status is Status.RUNNING
    assert log.state.own_status is Status.IDLE
    for told in (idle(), Draft("session.status_rescheduled")):
        with pytest.raises(IllegalRecord, match="while threads are running"):
            log.append(told)
    stop = {"stop_reason": {"type": "end_turn"}}
    log.append(status("idle", "sthr_2", **stop))
    with pytest.raises(IllegalRecord, match="asks for what its threads ask for"):
        log.append(idle("sevt_x"))
    log.append(idle())
    assert log.state.told


def test_a_thread_is_created_once_and_takes_nothing_behind_its_end() -> None:
    log = crewed()
    log.append(child())
    for twice in (child(), child("sthr_main")):
        with pytest.raises(IllegalRecord, match="exists already"):
            log.append(twice)
    ended = log.append(Draft("session.error", {}))[0]
    before = log.state
    over = log.append(thread_ended("sthr_2", "scout"))[0]
    assert final(before, over).state.phase is Phase.TERMINATED
    with pytest.raises(IllegalRecord, match="takes nothing more"):
        log.append(thread_ended("sthr_2", "scout"))
    with pytest.raises(IllegalRecord, match="cannot follow"):
        fold(log.state, ended)


def test_a_session_ends_after_its_threads_and_runs() -> None:
    log = crewed()
    log.append(child())
    log.append(status("terminated"))
    with pytest.raises(IllegalRecord, match="after its threads"):
        log.append(Draft("session.status_terminated"))


def test_c10_27_threads_that_left_are_counted_on() -> None:
    log = crewed()
    stop = {"stop_reason": {"type": "end_turn"}}
    log.append(child(), child("sthr_3"), Draft("session.status_running"))
    log.append(status("running", "sthr_2"), status("running", "sthr_3"))
    log.now_us += 5_000_000
    log.append(status("idle", "sthr_2", **stop), thread_ended("sthr_2", "scout"))
    # One that is stopped while it runs has run until then.
    log.now_us += 2_000_000
    log.append(thread_ended("sthr_3", "scout"), idle())
    assert log.state.crew is not None
    assert log.state.crew.members == ()
    times = [record.at_us for record in log.records]
    assert log.state.crew.departed_us == (times[5] - times[3]) + (times[7] - times[4])
    assert log.state.active_us == times[8] - times[2] < log.state.crew.departed_us
    # What an earlier release did not count stays unknown until somebody asks the rows of threads.
    old = replace(log.state, crew=replace(log.state.crew, departed_us=None))
    later = fold(old, replace(log.records[0], seq=10, body={**log.records[0].body}))
    assert later.crew is not None
    assert later.crew.departed_us is None
    ended = replace(log.records[6], seq=11)
    gone = fold(later, ended).crew
    assert gone is not None
    assert (gone.members, gone.departed_us) == ((), None)


@pytest.mark.rule("c15_28", "c19_13")
def test_a_run_is_folded_with_its_threads() -> None:
    band = started(flow(MAPS))
    (run,) = band.log.state.runs
    with pytest.raises(IllegalRecord, match="before its phases and threads"):
        band.log.append(
            Draft(
                "workflow_run.status_ended",
                {"workflow_run_id": run.id, "result": {"type": "completed"}},
            )
        )
    with pytest.raises(IllegalRecord, match="no step to begin"):
        band.log.append(child("sthr_x", run.id))
    with pytest.raises(IllegalRecord, match="never began"):
        band.log.append(child("sthr_x", "wrun_none"))
    step_ended = {"workflow_run_id": run.id, "done": True, "content": []}
    thread_id = next(iter(band.flights))
    band.log.append(Draft("internal.workflow_step_ended", step_ended, thread_id=thread_id))
    with pytest.raises(IllegalRecord, match="works on no step"):
        band.log.append(Draft("internal.workflow_step_ended", step_ended, thread_id=thread_id))


def test_room_is_kept_for_each_run_and_no_ended_step_counts() -> None:
    band = started(flow(phase("a", step("s")), phase("b", step("t", "clerk"))), scout=[text("x")])
    assert band.log.state.slots == 1
    band.scripts["clerk"].append(uses(use("weather")))
    band.land(next(iter(band.flights)))
    assert band.log.state.slots == 1, "the run keeps room for its next step"
    band.run()
    assert band.log.state.slots == 1
    assert len(band.log.state.threads) == 3
    assert isinstance(band, Band)
