import pytest

from intramuros.control.session import outcomes
from intramuros.control.session.outcomes import Aim, pursue, show
from intramuros.control.store.records import Draft, Record
from intramuros.kernel.errors import InvalidRequest

DEFINED = {
    "outcome_id": "outc_1",
    "description": "Build it.",
    "rubric": {"type": "text", "content": "- works"},
    "max_iterations": 2,
}


def record(type: str, seq: int = 7, **body: object) -> Record:
    return Record("sesn_1", seq, f"sevt_{seq}", type, seq, {"outcome_id": "outc_1", **body})


def end(result: str, iteration: int = 0) -> Record:
    return record(outcomes.END, result=result, iteration=iteration, explanation=f"was {result}")


def test_a_definition_gets_an_id_and_other_rows_stay() -> None:
    body = {name: value for name, value in DEFINED.items() if name != "outcome_id"}
    draft = outcomes.named(Draft(outcomes.DEFINE, body), lambda prefix: f"{prefix}_new")
    assert draft.body["outcome_id"] == "outc_new"
    other = Draft("user.message")
    assert outcomes.named(other, lambda _: "x") is other


@pytest.mark.parametrize("result", sorted(outcomes.TERMINAL))
def test_c20_4_an_aim_lives_until_a_terminal_result(result: str) -> None:
    (aim,) = aims = pursue((), record(outcomes.DEFINE, 3, **DEFINED))
    assert aim == Aim("outc_1", "sevt_3", 2)
    assert not aim.begun
    aims = pursue(aims, record(outcomes.BEGIN, 5))
    aims = pursue(aims, record(outcomes.START, 9))
    (aim,) = aims
    assert (aim.begun, aim.since, aim.start_id) == (True, 5, "sevt_9")
    (aim,) = aims = pursue(aims, end("needs_revision"))
    assert (aim.iteration, aim.start_id, aim.graded) == (1, None, 0)
    assert pursue(aims, end(result)) == ()
    with pytest.raises(LookupError, match="outc_1"):
        pursue((), end(result))


def test_what_a_grader_said_is_counted() -> None:
    aims = pursue((), record(outcomes.DEFINE, **DEFINED))
    asked = Record("s", 1, "e", outcomes.ONGOING, 0, {"outcome_id": "outc_1"}, private={"epoch": 4})
    (aim,) = aims = pursue(aims, asked)
    assert aim.asked_epoch == 4
    assert pursue(aims, record(outcomes.ONGOING)) == aims, "a sign of life asks nothing"
    (aim,) = aims = pursue(aims, record(outcomes.GRADED, grades=[], problem="x"))
    assert (aim.asked_epoch, aim.faults, aim.graded) == (None, 1, 0)
    (aim,) = aims = pursue(aims, record(outcomes.GRADED, grades=[[1, True, ""]], problem=None))
    assert (aim.faults, aim.graded) == (0, 1)
    assert outcomes.load(outcomes.dump(aims)) == aims


def test_c20_7_what_clients_read_of_an_outcome() -> None:
    shown = show([], record(outcomes.DEFINE, **DEFINED))
    assert shown == [
        {
            "type": "outcome_evaluation",
            "outcome_id": "outc_1",
            "description": "Build it.",
            "result": "pending",
            "iteration": 0,
            "explanation": None,
            "completed_at": None,
        }
    ]
    seen = []
    for step in (
        record(outcomes.BEGIN),
        record(outcomes.START),
        end("needs_revision"),
        record(outcomes.START),
        end("satisfied", 1),
    ):
        shown = show(shown, step)
        entry = shown[0]
        seen.append((entry["result"], entry["iteration"], entry["explanation"]))
        assert (entry["completed_at"] is None) == (entry["result"] != "satisfied")
    assert seen == [
        ("running", 0, None),
        ("evaluating", 0, None),
        ("running", 1, "was needs_revision"),
        ("evaluating", 1, "was needs_revision"),
        ("satisfied", 1, "was satisfied"),
    ]
    two = show(shown, record(outcomes.DEFINE, **{**DEFINED, "outcome_id": "outc_2"}))
    ended = show(two, record("session.status_terminated"))
    assert [entry["result"] for entry in ended] == ["satisfied", "interrupted"]
    assert ended[0] == shown[0]
    assert ended[1]["completed_at"] is not None


def test_a_session_has_so_many_outcomes_at_most() -> None:
    outcomes.check_room([{}] * 99, [Draft(outcomes.DEFINE)])
    outcomes.check_room([{}] * 100, [Draft("user.message")])
    with pytest.raises(InvalidRequest, match="at most 100"):
        outcomes.check_room([{}] * 99, [Draft(outcomes.DEFINE)] * 2)
