import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.model.script import (
    MAX_REPEATS,
    Progress,
    Script,
    ScriptStuck,
    fill,
    tool_named,
)

SCRIPT = Script.model_validate(
    {
        "steps": [
            {"id": "count", "tools": [{"name": "bash"}, {"name": "read_query"}]},
            {"text": "just words"},
            {
                "text": "${rows} rows",
                "values": {
                    "rows": {"step": "count", "pattern": r"(\d+) rows"},
                    "all": {"step": "count", "tool": 1, "pattern": "(?s).*"},
                },
            },
        ]
    }
)
USER = {"role": "user", "content": [{"type": "text", "text": "go"}]}
CALLS = {
    "role": "assistant",
    "content": [
        {"type": "tool_use", "id": "a", "name": "bash", "input": {}},
        {"type": "tool_use", "id": "b", "name": "read_query", "input": {}},
    ],
}


def results(first: Any = "12 rows", *, failed: bool = False) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "b", "content": "x\ny", "is_error": failed},
            {"type": "tool_result", "tool_use_id": "a", "content": first},
        ],
    }


WORDS = {"role": "assistant", "content": [{"type": "text", "text": "just words"}]}


def test_each_reply_moves_one_step_on() -> None:
    said: list[dict[str, Any]] = [USER]
    assert Progress(SCRIPT, said).step() is SCRIPT.steps[0]
    said += [CALLS, results()]
    assert Progress(SCRIPT, said).step() is SCRIPT.steps[1]
    said += [WORDS, USER]
    assert Progress(SCRIPT, said).step() is SCRIPT.steps[2]
    with pytest.raises(ScriptStuck, match="no further step"):
        Progress(SCRIPT, [*said, WORDS, USER]).step()


@pytest.mark.parametrize("content", ["12 rows", [{"type": "text", "text": "12 rows"}]])
def test_values_come_from_results(content: Any) -> None:
    progress = Progress(SCRIPT, [USER, CALLS, results(content), WORDS, USER])
    assert progress.values(progress.step()) == {"rows": "12", "all": "x\ny"}


def test_a_result_that_does_not_match_is_said() -> None:
    progress = Progress(SCRIPT, [USER, CALLS, results("none"), WORDS, USER])
    with pytest.raises(ScriptStuck, match="no 'rows' in the result of step 'count'"):
        progress.values(progress.step())


def test_a_failed_tool_repeats_its_step_and_not_for_ever() -> None:
    said: list[dict[str, Any]] = [USER]
    for _ in range(MAX_REPEATS):
        said += [CALLS, results(failed=True)]
        assert Progress(SCRIPT, said).step() is SCRIPT.steps[0]
    assert Progress(SCRIPT, [*said, CALLS, results()]).step() is SCRIPT.steps[1]
    with pytest.raises(ScriptStuck, match="failed 4 times"):
        Progress(SCRIPT, [*said, CALLS, results(failed=True)]).step()


def test_values_come_from_the_task() -> None:
    value = {"step": "task", "pattern": "g."}
    script = Script.model_validate({"steps": [{"text": "${x}", "values": {"x": value}}]})
    progress = Progress(script, [USER])
    assert progress.values(progress.step()) == {"x": "go"}


def test_turns_count_every_reply() -> None:
    assert Progress(SCRIPT, [USER, CALLS, results(failed=True)]).turns == 1


def test_fill_reaches_every_text() -> None:
    template: Any = {"a": ["${x}!", 1, None], "b": "$$5"}
    assert fill(template, {"x": "y"}) == {"a": ["y!", 1, None], "b": "$5"}
    with pytest.raises(ScriptStuck):
        fill("${absent}", {})
    with pytest.raises(ScriptStuck):
        fill("cost: $ 5", {})


def test_tools_by_full_or_bare_name() -> None:
    tools = [{"name": "read"}, {"name": "mcp__bank__read_query"}, {"name": "mcp__x__list"}]
    assert tool_named("read", tools) == "read"
    assert tool_named("read_query", tools) == "mcp__bank__read_query"
    with pytest.raises(ScriptStuck, match="0 tools"):
        tool_named("write", tools)
    with pytest.raises(ScriptStuck, match="2 tools"):
        tool_named("list", [*tools, {"name": "mcp__y__list"}])


json_values = st.sampled_from([None, True, "", "x", [], {}, [{"text": 1}]])
blocks = st.dictionaries(
    st.sampled_from(["type", "id", "tool_use_id", "content", "is_error"]),
    st.sampled_from(["tool_use", "tool_result", "a", "b"]) | json_values,
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": st.lists(blocks) | st.text()}
)


@given(st.lists(messages, max_size=8))
def test_any_conversation_has_a_step_or_is_stuck(said: list[dict[str, Any]]) -> None:
    progress = Progress(SCRIPT, said)
    with contextlib.suppress(ScriptStuck):
        progress.values(progress.step())
    assert progress.turns == sum(m["role"] == "assistant" for m in said)


def test_a_grader_plays_a_step_for_each_evaluation_and_the_last_one_again() -> None:
    script = Script.model_validate(
        {"steps": [{"text": "work"}], "grader": [{"text": "no"}, {"text": "yes"}]}
    )

    def asked(iteration: int) -> list[dict[str, Any]]:
        text = json.dumps({"task": "x", "iteration": iteration, "work": []})
        return [{"role": "user", "content": [{"type": "text", "text": text}]}]

    assert [script.verdict(asked(n)).text for n in range(4)] == ["no", "yes", "yes", "yes"]
    assert script.verdict([]).text == "no"
    with pytest.raises(ScriptStuck, match="no grader"):
        SCRIPT.verdict(asked(0))
