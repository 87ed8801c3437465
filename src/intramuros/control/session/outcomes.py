"""The outcomes that a session is to bring about, as its state and its clients see them. Pure.

(What an effect brought is an outcome too, in ``outcome.py``; these are the API's.)

An *aim* is an outcome that is not over: it is defined, begins when the loop turns to it, is
evaluated whenever the agent ends its turn, and leaves the state with its last evaluation. What
clients read of all outcomes, past ones too, is kept beside the state (:func:`show`), because a
state holds only what is open.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from intramuros.control.store.records import Draft, Record
from intramuros.kernel.errors import InvalidRequest

Shown = dict[str, Any]

DEFINE: Final = "user.define_outcome"
BEGIN: Final = "internal.outcome_started"
START: Final = "span.outcome_evaluation_start"
ONGOING: Final = "span.outcome_evaluation_ongoing"
GRADED: Final = "internal.outcome_graded"
END: Final = "span.outcome_evaluation_end"

# After these results no evaluation follows (contract 20.4).
TERMINAL: Final = frozenset({"satisfied", "max_iterations_reached", "failed", "interrupted"})
# The agent hears of these and goes on, once or once more (contract 20.5).
HEARD: Final = frozenset({"needs_revision", "max_iterations_reached"})
DEFAULT_ITERATIONS: Final = 3
# A session keeps what came of each; a chain longer than this is a program that runs away.
MAX_OUTCOMES: Final = 100
# The records that change what clients read of outcomes.
TELLING: Final = frozenset({DEFINE, BEGIN, START, END, "session.status_terminated"})


@dataclass(frozen=True)
class Aim:
    """An outcome that is not over.

    Args:
        id: the outcome's.
        event_id: of its definition.
        max_iterations: evaluations until it is given up.
        since: the log position where work on it began; 0 while it waits.
        iteration: how often the work was revised.
        start_id: the start of the evaluation that is under way, if one is.
        graded: criteria that have a verdict in this evaluation.
        faults: answers of the grader in a row that were of no use.
        asked_epoch: the lease epoch under which the grader was asked and has not answered.
    """

    id: str
    event_id: str
    max_iterations: int
    since: int = 0
    iteration: int = 0
    start_id: str | None = None
    graded: int = 0
    faults: int = 0
    asked_epoch: int | None = None

    @property
    def begun(self) -> bool:
        """Whether the agent has been told of it."""
        return self.since > 0


Aims = tuple[Aim, ...]


def named(draft: Draft, new_id: Callable[[str], str]) -> Draft:
    """Give a definition the id of its outcome; leave other rows alone."""
    if draft.type != DEFINE:
        return draft
    return replace(draft, body={**draft.body, "outcome_id": new_id("outc")})


def check_room(entries: Sequence[Shown], drafts: Sequence[Draft]) -> None:
    """Refuse outcomes beyond what a session keeps.

    Raises:
        InvalidRequest: there are too many.
    """
    new = sum(draft.type == DEFINE for draft in drafts)
    if new and len(entries) + new > MAX_OUTCOMES:
        raise InvalidRequest(f"a session has at most {MAX_OUTCOMES} outcomes")


def pursue(aims: Aims, record: Record) -> Aims:
    """Return the aims after a record about one of them.

    Raises:
        LookupError: the record is about none of them.
    """
    outcome_id = str(record.body["outcome_id"])
    if record.type == DEFINE:
        limit = record.body.get("max_iterations") or DEFAULT_ITERATIONS
        return (*aims, Aim(outcome_id, record.id, int(str(limit))))
    found = next((aim for aim in aims if aim.id == outcome_id), None)
    if found is None:
        raise LookupError(f"{record.type} is about {outcome_id}, which is not open")
    if record.type == END and record.body["result"] in TERMINAL:
        return tuple(aim for aim in aims if aim is not found)
    changed = _STEPS[record.type](found, record)
    return tuple(changed if aim is found else aim for aim in aims)


def _asked(aim: Aim, record: Record) -> Aim:
    epoch = (record.private or {}).get("epoch")
    return aim if epoch is None else replace(aim, asked_epoch=int(str(epoch)))


def _graded(aim: Aim, record: Record) -> Aim:
    grades = record.body["grades"]
    return replace(
        aim,
        asked_epoch=None,
        graded=aim.graded + len(grades if isinstance(grades, Sequence) else ()),
        faults=aim.faults + 1 if record.body.get("problem") else 0,
    )


def _revised(aim: Aim, _: Record) -> Aim:
    return replace(
        aim, iteration=aim.iteration + 1, start_id=None, graded=0, faults=0, asked_epoch=None
    )


_STEPS: Final[Mapping[str, Callable[[Aim, Record], Aim]]] = {
    BEGIN: lambda aim, record: replace(aim, since=record.seq),
    START: lambda aim, record: replace(aim, start_id=record.id, graded=0, faults=0),
    ONGOING: _asked,
    GRADED: _graded,
    END: _revised,
}


def show(entries: Sequence[Shown], record: Record) -> list[Shown]:
    """Return ``outcome_evaluations`` as the API shows it, after one more record (contract 20.7)."""
    if record.type == DEFINE:
        entry = {
            "type": "outcome_evaluation",
            "outcome_id": record.body["outcome_id"],
            "description": record.body["description"],
            "result": "pending",
            "iteration": 0,
            "explanation": None,
            "completed_at": None,
        }
        return [*entries, entry]
    if record.type == "session.status_terminated":
        ended = {"result": "interrupted", "completed_at": record.public()["processed_at"]}
        return [entry if entry["completed_at"] else {**entry, **ended} for entry in entries]
    about = record.body["outcome_id"]
    return [
        {**entry, **_told(record)} if entry["outcome_id"] == about else dict(entry)
        for entry in entries
    ]


def _told(record: Record) -> Shown:
    if record.type != END:
        return {"result": "evaluating" if record.type == START else "running"}
    body, over = record.body, record.body["result"] in TERMINAL
    if not over:
        return {
            "result": "running",
            "explanation": body["explanation"],
            "iteration": int(str(body["iteration"])) + 1,
        }
    return {
        "result": body["result"],
        "explanation": body["explanation"],
        "iteration": body["iteration"],
        "completed_at": record.public()["processed_at"],
    }


def dump(aims: Aims) -> list[dict[str, object]]:
    """Return aims as JSON values; :func:`load` gives them back."""
    return [dict(vars(aim)) for aim in aims]


def load(dumped: Sequence[Mapping[str, Any]]) -> Aims:
    """Return the aims that :func:`dump` wrote."""
    return tuple(Aim(**item) for item in dumped)
