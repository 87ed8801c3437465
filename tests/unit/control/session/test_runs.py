from dataclasses import replace
from typing import Any

import pytest

from intramuros.control.session import runs
from intramuros.control.session.phase import Status
from intramuros.control.session.runs import IllegalStep, Move, Run, Stand, move
from intramuros.control.store.records import Record

NEW = Run("wrun_1", "sevt_1", (("wrph_1", 2), ("wrph_2", 1)))
RUNNING = replace(NEW, told=Status.RUNNING, running_since_us=1)
OPEN = replace(RUNNING, place=0, started_id="sevt_2")
FREE = Stand(open=(), working=False, lost=(), room=True, capped=False)
BUSY = replace(FREE, open=("sthr_1",), working=True)


def record(type: str, at_us: int = 10, private: Any = None, **body: object) -> Record:
    told = {"workflow_run_id": "wrun_1", **body}
    return Record("sesn_1", 1, "sevt_9", type, at_us, told, private=private)


def after(run: Run, type: str, threads: int = 0, at_us: int = 10, **body: object) -> Run:
    (left,) = runs.followed((run,), record(type, at_us, **body), threads)
    return left


@pytest.mark.parametrize(
    ("run", "stand", "wanted"),
    [
        (replace(RUNNING, stopping=True), replace(BUSY, lost=("x",)), Move.STOP),
        (OPEN, replace(BUSY, lost=("sthr_1",)), Move.LOSE),
        (NEW, FREE, Move.RUN),
        (RUNNING, FREE, Move.OPEN),
        (RUNNING, replace(FREE, capped=True), Move.REST),
        (replace(RUNNING, told=Status.IDLE), FREE, Move.RUN),
        (replace(RUNNING, told=Status.IDLE), replace(FREE, capped=True), None),
        (OPEN, FREE, Move.BEGIN),
        (replace(OPEN, begun=1), BUSY, Move.BEGIN),
        (replace(OPEN, begun=1), replace(BUSY, room=False), None),
        (replace(OPEN, begun=1), replace(BUSY, room=False, working=False), Move.REST),
        (replace(OPEN, begun=1), replace(FREE, capped=True), Move.REST),
        (replace(OPEN, begun=2), BUSY, None),
        (replace(OPEN, begun=2, told=Status.IDLE), BUSY, Move.RUN),
        (replace(OPEN, begun=2, told=Status.IDLE), replace(BUSY, working=False), None),
        (replace(OPEN, begun=2, told=Status.IDLE), FREE, Move.CLOSE),
        (replace(OPEN, begun=1, failed=True), BUSY, None),
        (replace(OPEN, begun=1, failed=True), FREE, Move.CLOSE),
        (replace(RUNNING, place=0, failed=True), FREE, Move.FAIL),
        (replace(RUNNING, place=0, failed=True), replace(FREE, capped=True), Move.FAIL),
        (replace(RUNNING, place=1), replace(FREE, capped=True), Move.COMPLETE),
    ],
)
def test_what_a_run_does_next(run: Run, stand: Stand, wanted: Move | None) -> None:
    assert move(run, stand) is wanted


@pytest.mark.rule("c15_28")
@pytest.mark.parametrize(
    ("run", "type", "body"),
    [
        (NEW, runs.PHASE_STARTED, {"workflow_run_phase_id": "wrph_1"}),
        (NEW, runs.ENDED, {"result": {"type": "stopped"}}),
        (RUNNING, runs.RUNNING, {}),
        (replace(RUNNING, told=Status.IDLE), runs.IDLE, {}),
        (RUNNING, runs.PHASE_STARTED, {"workflow_run_phase_id": "wrph_2"}),
        (OPEN, runs.PHASE_STARTED, {"workflow_run_phase_id": "wrph_2"}),
        (replace(RUNNING, place=1), runs.PHASE_STARTED, {"workflow_run_phase_id": "wrph_2"}),
        (RUNNING, runs.PHASE_ENDED, {"phase_started_id": None}),
        (OPEN, runs.PHASE_ENDED, {"phase_started_id": "sevt_3"}),
        (OPEN, runs.ENDED, {"result": {"type": "stopped"}}),
        (RUNNING, runs.ENDED, {"result": {"type": "error", "error": {"type": "timeout_error"}}}),
        (replace(RUNNING, erred="timeout_error"), runs.ENDED, {"result": {"type": "completed"}}),
    ],
)
def test_a_record_that_breaks_the_order_is_refused(run: Run, type: str, body: Any) -> None:
    with pytest.raises(IllegalStep):
        after(run, type, **body)


@pytest.mark.rule("c15_28", "c19_13")
def test_the_path_of_a_run() -> None:
    shown = [{"id": "wrph_1"}, {"id": "wrph_2"}]
    known = runs.created((), record(runs.CREATED, private={"steps": [2, 1]}, phases=shown))
    assert known == (replace(NEW, created_id="sevt_9"),)
    run = after(known[0], runs.RUNNING, at_us=5)
    run = after(run, runs.PHASE_STARTED, workflow_run_phase_id="wrph_1")
    (run,) = runs.begun((run,), "wrun_1")
    (run,) = runs.begun((run,), "wrun_1")
    with pytest.raises(IllegalStep, match="no step"):
        runs.begun((run,), "wrun_1")
    assert runs.begun((run,), None) == (run,)
    (failed,) = runs.lost((run,), "wrun_1")
    assert failed.failed
    run = after(run, runs.IDLE, at_us=9)
    assert (run.active_us, run.deadline_us(100)) == (4, None)
    run = after(run, runs.RUNNING, at_us=20)
    assert run.deadline_us(100) == 116
    run = after(run, runs.PHASE_ENDED, phase_started_id="sevt_9")
    with pytest.raises(IllegalStep, match="threads"):
        runs.followed((run,), record(runs.ENDED, result={"type": "stopped"}), 1)
    assert runs.followed((run,), record(runs.ENDED, result={"type": "stopped"}), 0) == ()
    with pytest.raises(IllegalStep, match="has ended"):
        runs.followed((), record(runs.IDLE), 0)


def test_there_are_only_so_many_and_each_once() -> None:
    shown = [{"id": "wrph_1"}]
    made = record(runs.CREATED, private={"steps": [1]}, phases=shown)
    with pytest.raises(IllegalStep):
        runs.created((NEW,), made)
    others = tuple(replace(NEW, id=f"wrun_x{n}") for n in range(runs.MAX_RUNS))
    with pytest.raises(IllegalStep):
        runs.created(others, made)
    assert all(run.stopping for run in runs.stopped(others))


@pytest.mark.parametrize("run", [NEW, RUNNING, replace(OPEN, begun=2, erred="timeout_error")])
def test_a_dump_gives_the_run_back(run: Run) -> None:
    assert runs.load(run.dump()) == run
