import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.model.base import ModelReply
from intramuros.control.session import grading
from intramuros.control.session.grading import Grade, Task, Unusable, criteria, evidence, read
from intramuros.control.store.records import Record
from tests.fakes.loop import text, use, uses, verdict

RUBRIC = """# The model

Some words on what this is.

## Revenue
- Uses five years
  of history
- Projects five more:
  - conservatively
  - optimistically

## Output ##
1. One file
2) Labelled sheets

Not a criterion.
    - but this is none of the outermost
"""


def record(type: str, seq: int = 1, **body: object) -> Record:
    return Record("sesn_1", seq, f"sevt_{seq}", type, seq, body)


def document(request: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.messages[0]["content"][0]["text"])
    return found


def test_criteria_are_the_outermost_items_with_their_heading() -> None:
    assert criteria(RUBRIC) == [
        "Revenue: Uses five years\nof history",
        "Revenue: Projects five more:\n- conservatively\n- optimistically",
        "Output: One file",
        "Output: Labelled sheets",
    ]
    assert criteria("  It is good. \n") == ["It is good."]
    assert criteria("* a\n+ b\n") == ["a", "b"]
    assert criteria("  - in\n  - deeper\n") == ["in", "deeper"]
    assert criteria("####") == ["####"]


@given(st.text(alphabet="-*# \t\n1.)ab", max_size=300))
def test_any_rubric_has_criteria_and_not_too_many(rubric: str) -> None:
    found = criteria(rubric)
    assert 1 <= len(found) <= grading.MAX_CRITERIA


@pytest.mark.parametrize("line", ["# " + " " * 200_000 + "x", "-" + " " * 200_000, " " * 250_000])
def test_no_rubric_takes_long(line: str) -> None:
    assert len(criteria(line)) == 1


def test_long_rubrics_are_judged_in_groups() -> None:
    found = criteria("\n".join(f"- c{n}" for n in range(250)))
    assert len(found) == 84
    assert found[0] == "c0\nc1\nc2"


def test_the_grader_sees_task_rubric_and_work_and_nothing_else() -> None:
    work = [
        record("agent.thinking", 1),
        record("agent.tool_use", 2, name="write", input={"file": "a.csv"}),
        record(
            "user.tool_result",
            3,
            tool_use_id="sevt_2",
            is_error=True,
            content=[{"type": "text", "text": "full"}, {"type": "image", "source": {}}],
        ),
        record("user.message", 4, content=[{"type": "text", "text": "hurry"}]),
        record("agent.message", 5, content=[{"type": "text", "text": 'done "}]}'}]),
        record("span.outcome_evaluation_end", 6, explanation="no"),
    ]
    asked = grading.request("m", Task("Build it.", RUBRIC, 2), work, 1, "it was empty")
    assert (asked.model, asked.purpose) == ("m", "grade")
    assert [tool["name"] for tool in asked.tools] == [grading.TOOL]
    assert document(asked) == {
        "task": "Build it.",
        "rubric": RUBRIC,
        "iteration": 2,
        "work": [
            {"called": "write", "input": '{"file": "a.csv"}'},
            {"result": "full\n[image]", "is_error": True},
            {"user_said": "hurry"},
            {"agent_said": 'done "}]}'},
        ],
        "criteria": [
            {"criterion": n, "text": text} for n, text in enumerate(criteria(RUBRIC)[1:], 2)
        ],
        "your_last_answer_was_unusable": "it was empty",
    }
    assert "work" in str(asked.system)


def test_work_is_bounded_and_its_newest_part_is_kept() -> None:
    said = [
        record("agent.message", n, content=[{"type": "text", "text": f"{n:03}" + "x" * 50_000}])
        for n in range(1, 40)
    ]
    shown = evidence(said)
    assert sum(len(json.dumps(piece)) for piece in shown) < grading.MAX_WORK_CHARS + 100
    assert shown[0] == {"left_out": "what was done before this"}
    assert shown[-1]["agent_said"].startswith("039")
    assert "characters left out" in shown[-1]["agent_said"]


def test_a_batch_is_judged_one_by_one() -> None:
    assert read(verdict(True, False), 0, 2).grades == (
        Grade(1, True, "reason 1"),
        Grade(2, False, "reason 2"),
    )
    many = grading.BATCH + 3
    assert len(read(verdict(*[True] * grading.BATCH), 0, many).grades) == grading.BATCH
    rest = read(verdict(True, True, False, first=grading.BATCH + 1), grading.BATCH, many)
    assert [grade.criterion for grade in rest.grades] == [21, 22, 23]
    assert read(uses(use(grading.TOOL, applies=False, why_not="no sheet")), 0, 2).inapplicable
    assert read(uses(use(grading.TOOL, applies=False)), 0, 2).inapplicable is not None


GRADE = {"criterion": 1, "met": True, "why": "x"}


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (text("All criteria are met."), "does not call"),
        (ModelReply([], "refusal"), "does not call"),
        (uses(use("other", grades=[GRADE])), "does not call"),
        (uses({"type": "tool_use", "id": "t", "name": grading.TOOL, "input": "yes"}), "not call"),
        (uses(use(grading.TOOL)), "no list"),
        (uses(use(grading.TOOL, grades={"1": True})), "no list"),
        (uses(use(grading.TOOL, grades=[])), "1 to 1, each once"),
        (uses(use(grading.TOOL, grades=["met"])), "no object"),
        (uses(use(grading.TOOL, grades=[GRADE, GRADE])), "judged twice"),
        (uses(use(grading.TOOL, grades=[{**GRADE, "criterion": 2}])), "1 to 1"),
        (uses(use(grading.TOOL, grades=[{**GRADE, "criterion": True}])), "needs a criterion"),
        (uses(use(grading.TOOL, grades=[{**GRADE, "criterion": "1"}])), "needs a criterion"),
        (uses(use(grading.TOOL, grades=[{**GRADE, "met": "yes"}])), "true or false"),
        (uses(use(grading.TOOL, grades=[{**GRADE, "met": 1}])), "true or false"),
        (
            uses(use(grading.TOOL, grades=[{**GRADE, "criterion": n} for n in range(1, 99)])),
            "1 to 1",
        ),
    ],
)
def test_an_answer_that_does_not_judge_is_of_no_use(reply: ModelReply, why: str) -> None:
    with pytest.raises(Unusable, match=why):
        read(reply, 0, 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["applies", "why_not", "grades", "criterion", "met", "why"]), inner
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_answer_is_usable_or_said_not_to_be(given: Any) -> None:
    reply = uses({"type": "tool_use", "id": "t", "name": grading.TOOL, "input": given})
    try:
        found = read(reply, 0, 2)
    except Unusable as unusable:
        assert str(unusable)
    else:
        assert found.inapplicable or [grade.criterion for grade in found.grades] == [1, 2]


def test_reasons_are_bounded_text() -> None:
    why = "a\x00\x1b[31m" + "b" * 5000
    (grade,) = read(uses(use(grading.TOOL, grades=[{**GRADE, "why": why}])), 0, 1).grades
    assert len(grade.why) <= grading.MAX_WHY_CHARS
    assert "\x1b" not in grade.why
    assert "\x00" not in grade.why
    (grade,) = read(uses(use(grading.TOOL, grades=[{**GRADE, "why": None}])), 0, 1).grades
    assert grade.why == "no reason given"


def test_an_explanation_names_what_is_not_met_first_and_is_bounded() -> None:
    said = grading.explain(["one", "two\nlines"], [Grade(1, True, "ok"), Grade(2, False, "no")])
    assert said == "1 of 2 criteria met.\n- NOT MET: two lines — no\n- met: one — ok"
    long = [Grade(n, False, "x" * 1000) for n in range(1, 101)]
    assert len(grading.explain(["y" * 5000] * 100, long)) < grading.MAX_EXPLANATION_CHARS + 10
