from dataclasses import replace

import pytest

from intramuros.control.dreams.plan import (
    Ask,
    Close,
    Copy,
    Done,
    Dream,
    Fail,
    Halt,
    Limits,
    Progress,
    Serve,
    Start,
    Surroundings,
    Wait,
    decide,
    part_chars,
)
from intramuros.control.session.phase import Phase
from intramuros.control.session.state import Call, CallKind, Queued, State, initial

LIMITS = Limits(budget_s=100.0, store_bytes=1000)
PENDING = Dream(
    id="drm_1",
    workspace_id="w",
    status="pending",
    inputs=(),
    store_id="memstore_1",
    session_ids=("sesn_1",),
    model={"id": "m"},
    instructions=None,
    updates=False,
    output_id=None,
    session_id="sesn_2",
    error=None,
    usage={},
    progress=Progress(),
    created_by="k",
    created_us=0,
)
READING = Progress(copied=None, part=1)
RUNNING = replace(PENDING, status="running", started_us=0, output_id="memstore_2", progress=READING)
REST = replace(initial("t", self_hosted=False), stop="end_turn")
OPEN = Surroundings("open", state=REST)
CALLED = replace(
    REST, phase=Phase.REQUIRES_ACTION, calls=(Call("c", CallKind.CUSTOM),), announced=("c",)
)


def after(dream: Dream, seen: Surroundings, now_us: int = 0) -> object:
    return decide(dream, seen, now_us, LIMITS)


def state(**changes: object) -> Surroundings:
    return replace(OPEN, state=replace(REST, **changes))  # type: ignore[arg-type]


def test_the_way_from_pending_to_the_end() -> None:
    assert after(PENDING, Surroundings("open")) == Start()
    assert after(replace(RUNNING, progress=Progress()), OPEN) == Copy()
    assert after(replace(RUNNING, progress=Progress(copied="/a")), OPEN) == Copy()
    assert after(RUNNING, state(stop=None)) == Ask()
    assert after(RUNNING, OPEN) == Ask()
    assert after(RUNNING, replace(OPEN, state=CALLED)) == Serve()
    assert after(replace(RUNNING, progress=replace(READING, last=True)), OPEN) == Close("completed")
    assert after(replace(RUNNING, status="completed", stopped_us=1), OPEN) == Done()


@pytest.mark.parametrize(
    "busy",
    [
        {"phase": Phase.RUNNING},
        {"phase": Phase.SAMPLING},
        {"phase": Phase.RESCHEDULING},
        {"queued": (Queued("e", "user.message"),)},
        {"phase": Phase.REQUIRES_ACTION, "queued": (Queued("e", "user.interrupt"),)},
    ],
)
def test_it_waits_while_its_session_works(busy: dict[str, object]) -> None:
    assert after(RUNNING, state(**busy)) == Wait()


def test_a_turn_that_was_given_up_fails_it() -> None:
    gave_up = replace(state(stop="retries_exhausted"), complaint="the model is away")
    assert after(RUNNING, gave_up) == Fail("internal_error", "the model is away")
    assert after(RUNNING, state(stop="refusal")) == Fail(
        "internal_error", "the model ended with refusal"
    )


@pytest.mark.parametrize(
    ("seen", "error"),
    [
        (replace(OPEN, store="archived"), "input_memory_store_unavailable"),
        (replace(OPEN, store="gone"), "input_memory_store_unavailable"),
        (replace(OPEN, lost_session="sesn_1"), "input_session_unavailable"),
        (replace(OPEN, output="archived"), "internal_error"),
        (replace(OPEN, output="gone"), "internal_error"),
        (replace(OPEN, state=None), "internal_error"),
        (state(phase=Phase.TERMINATED), "internal_error"),
    ],
)
def test_R247_what_it_depends_on_may_go_at_any_moment(seen: Surroundings, error: str) -> None:
    for progress in (READING, Progress(), replace(READING, last=True)):
        act = after(replace(RUNNING, progress=progress), seen)
        assert isinstance(act, Fail)
        assert act.type == error


def test_R247_a_pending_dream_is_judged_before_it_starts() -> None:
    too_large = Surroundings("open", store_bytes=1001)
    act = after(PENDING, too_large)
    assert isinstance(act, Fail)
    assert act.type == "input_memory_store_too_large"
    assert after(PENDING, Surroundings("open", store_bytes=1000)) == Start()
    gone = after(PENDING, Surroundings("gone"))
    assert isinstance(gone, Fail)
    assert gone.type == "input_memory_store_unavailable"


def test_R247_time_is_counted_from_the_start() -> None:
    assert after(RUNNING, OPEN, 100_000_000) == Ask()
    late = after(RUNNING, OPEN, 100_000_001)
    assert isinstance(late, Fail)
    assert late.type == "timeout"
    assert after(PENDING, Surroundings("open"), 10**12) == Start()


def test_stumbles_end_it() -> None:
    stumbled = replace(RUNNING, progress=replace(READING, stumbles=5))
    act = after(stumbled, OPEN)
    assert isinstance(act, Fail)
    assert act.type == "internal_error"


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_R242_an_ended_dream_only_winds_down(status: str) -> None:
    ended = replace(RUNNING, status=status)  # type: ignore[arg-type]
    assert after(ended, OPEN) == Close(status)  # type: ignore[arg-type]
    assert after(ended, replace(OPEN, state=None)) == Close(status)  # type: ignore[arg-type]
    assert after(ended, state(phase=Phase.TERMINATED)) == Close(status)  # type: ignore[arg-type]
    assert after(ended, replace(OPEN, state=CALLED)) == Halt()
    assert after(ended, state(phase=Phase.SAMPLING)) == Halt()
    assert after(ended, state(queued=(Queued("e", "user.message"),))) == Halt()
    assert after(ended, state(queued=(Queued("e", "user.interrupt"),))) == Wait()
    # Nothing that happens to its inputs changes what it is.
    assert after(ended, replace(OPEN, store="gone", lost_session="x")) == Close(status)  # type: ignore[arg-type]


def test_a_report_that_cannot_be_stored_is_given_up_in_the_end() -> None:
    failed = replace(RUNNING, status="failed", progress=replace(READING, stumbles=10))
    assert after(failed, OPEN) == Close("failed", report=False)


def test_parts_follow_the_models_window() -> None:
    assert part_chars(Limits(), None) == 200_000
    assert part_chars(Limits(), 32_000) == 32_000
    assert part_chars(Limits(), 1_000_000) == Limits().part_chars


def test_progress_is_stored_as_it_is() -> None:
    progress = Progress("/a", 2, "/b", 3, 4, 5, last=True, stumbles=6)
    assert Progress(**progress.dump()) == progress


def test_the_phases_are_all_thought_of() -> None:
    for phase in Phase:
        current: State = replace(REST, phase=phase)
        assert after(RUNNING, replace(OPEN, state=current)) is not None
