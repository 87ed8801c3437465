"""How an outcome is evaluated, step by step. Pure.

::

    the agent ends its turn ──► start ──► ongoing ──► graded ──┬─► … until every criterion has one
                                            ▲    (a batch)     │
                                            └──────────────────┴─► end ──► revise, or rest

Each request to the grader is announced in the log before it is made, with the lease epoch of
whoever makes it: one that nobody waits for any more is asked again, a few times, so that neither a
request that kills processes nor an answer that is never of use goes on for ever.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from intramuros.control.model.base import ModelError, ModelReply, ModelRequest
from intramuros.control.session import grading, runs
from intramuros.control.session.drafts import NO_USAGE, exhausted, failure, processed, resting
from intramuros.control.session.grading import Grade, Grades, Task
from intramuros.control.session.outcomes import BEGIN, DEFINE, END, GRADED, ONGOING, START, Aim
from intramuros.control.session.phase import OPENERS
from intramuros.control.session.usage import priced
from intramuros.control.session.view import View
from intramuros.control.store.records import Draft, Record

# Answers of no use in a row after which the evaluation has failed.
MAX_FAULTS: Final = 3
LOST: Final = "the server stopped before it saw the answer"


@dataclass(frozen=True)
class AskGrader:
    """Send a request to the grader; its announcement is in the log."""

    request: ModelRequest
    aim: Aim


def begin(view: View) -> list[Draft]:
    """Turn to the next outcome, if one waits and none is under way (contract 20.3)."""
    aims = view.state.aims
    if not aims or aims[0].begun:
        return []
    return [Draft(BEGIN, {"outcome_id": aims[0].id})]


def step(view: View, aim: Aim, now_us: int, epoch: int) -> Sequence[Draft] | AskGrader:
    """Return what an evaluation does next, after the agent ended its turn."""
    if aim.start_id is None:
        if any(item.type in OPENERS for item in view.state.queued):
            # It directs the work, so the work goes on before it is judged.
            return [processed(record) for record in view.waiting()]
        if view.state.capped(now_us):
            return resting(view, now_us, "budget_reached")
        return [Draft(START, {"outcome_id": aim.id, "iteration": aim.iteration})]
    if aim.asked_epoch == epoch:
        return AskGrader(_request(view, aim), aim)
    if aim.asked_epoch is not None:
        return [_mark(aim, problem=LOST)]
    if verdict := _verdict(view, aim):
        result, explanation = verdict
        revising = result == "needs_revision"
        told = view.waiting() if revising else []
        ended = end(view, aim, result, explanation)
        return [ended, *(processed(record) for record in told)]
    if view.state.capped(now_us):
        return resting(view, now_us, "budget_reached")
    return [Draft(ONGOING, _about(aim), private={"epoch": epoch})]


def ongoing(aim: Aim) -> list[Draft]:
    """Show that the grader still works."""
    return [Draft(ONGOING, _about(aim))]


def answered(view: View, aim: Aim, reply: ModelReply) -> list[Draft]:
    """Record what the grader said, or why it is of no use."""
    task = task_of(view, aim)
    private = {**priced(reply), "model": reply.model or view.subject.agent["model"]["id"]}
    try:
        found = grading.read(reply, aim.graded, len(grading.criteria(task.rubric)))
    except grading.Unusable as unusable:
        mark = _mark(aim, reply, problem=str(unusable))
    else:
        mark = _mark(aim, reply, found)
    return [replace(mark, private=private)]


def failed(view: View, aim: Aim, error: ModelError, now_us: int, *, final: bool) -> list[Draft]:
    """Record that the grader's model did not answer.

    Args:
        final: give it up; otherwise the caller says when it is asked again.
    """
    mark = _mark(aim, failed=True)
    if not final:
        return [mark, failure(error.failure.value, error.message, "retrying")]
    report = failure(error.failure.value, error.message, "exhausted")
    explanation = f"The grader could not be asked: {error.message}"
    return [mark, end(view, aim, "failed", explanation), *exhausted(view, now_us, report)]


def interrupted(view: View, before_seq: int) -> list[Draft]:
    """End what was to be brought about when somebody said stop (contract 20.6).

    Args:
        before_seq: where the interrupt arrived; outcomes that were defined behind it stay.
    """
    events = {record.id: record.seq for record in view.find([a.event_id for a in view.state.aims])}
    return [
        end(view, aim, "interrupted", "The session was interrupted.")
        for aim in view.state.aims
        if events[aim.event_id] < before_seq
    ]


def end(view: View, aim: Aim, result: str, explanation: str) -> Draft:
    """End an evaluation, with the usage of all its requests."""
    usage = dict(NO_USAGE)
    for record in _marks(view, aim):
        for name, count in _members(record.body["usage"]).items():
            usage[name] += count
    body = {
        **_about(aim),
        "outcome_evaluation_start_id": aim.start_id or "",
        "result": result,
        "explanation": explanation,
        "usage": usage,
    }
    return Draft(END, body)


def task_of(view: View, aim: Aim) -> Task:
    """Return what an outcome's definition says."""
    (defined,) = view.find([aim.event_id])
    rubric = str(_members(defined.body["rubric"])["content"])
    return Task(str(defined.body["description"]), rubric, aim.iteration)


def _request(view: View, aim: Aim) -> ModelRequest:
    work = [
        record
        for record in view.records[aim.since :]
        if record.thread_id is None and record.type != DEFINE and _tells(record)
    ]
    marks = _marks(view, aim)
    problem = marks[-1].body.get("problem") if marks else None
    model = view.subject.agent["model"]["id"]
    return grading.request(
        model, task_of(view, aim), work, aim.graded, str(problem) if problem else None
    )


def _tells(record: Record) -> bool:
    """Tell whether a record is part of the work: seen by clients, or what a workflow run found."""
    return record.visible or (record.type in (runs.REPORT, runs.NOTE) and not record.queued)


def _verdict(view: View, aim: Aim) -> tuple[str, str] | None:
    """Return result and explanation once they are known (contract 20.4)."""
    marks = _marks(view, aim)
    if aim.faults >= MAX_FAULTS:
        problem = marks[-1].body["problem"]
        return "failed", f"The grader gave no usable answer in {aim.faults} attempts: {problem}."
    for mark in marks:
        if mark.body.get("inapplicable"):
            return "failed", str(mark.body["inapplicable"])
    texts = grading.criteria(task_of(view, aim).rubric)
    if aim.graded < len(texts):
        return None
    grades = [Grade(*grade) for mark in marks for grade in _listed(mark.body["grades"])]
    explanation = grading.explain(texts, grades)
    if all(grade.met for grade in grades):
        return "satisfied", explanation
    last = aim.iteration + 1 >= aim.max_iterations
    return "max_iterations_reached" if last else "needs_revision", explanation


def _marks(view: View, aim: Aim) -> list[Record]:
    """Return what the grader said in the evaluation that is under way, oldest first."""
    found = []
    for record in reversed(view.records):
        if aim.start_id is None or record.id == aim.start_id:
            break
        if record.type == GRADED and record.body["outcome_id"] == aim.id:
            found.append(record)
    return found[::-1]


def _mark(
    aim: Aim,
    reply: ModelReply | None = None,
    found: Grades | None = None,
    *,
    problem: str | None = None,
    failed: bool = False,
) -> Draft:
    grades = found.grades if found else ()
    body = {
        "outcome_id": aim.id,
        "grades": [[grade.criterion, grade.met, grade.why] for grade in grades],
        "inapplicable": found.inapplicable if found else None,
        "problem": problem,
        "failed": failed,
        "usage": reply.usage.counters if reply else dict(NO_USAGE),
    }
    return Draft(GRADED, body)


def _about(aim: Aim) -> dict[str, object]:
    return {"outcome_id": aim.id, "iteration": aim.iteration}


def _members(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(value: object) -> Sequence[Any]:
    return value if isinstance(value, Sequence) else ()
