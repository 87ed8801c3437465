import json
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from intramuros.control.model.base import Delta, Failure, ModelError, ModelRequest, TextDelta, Usage
from intramuros.control.model.scripted import ScriptedModel, load_script
from intramuros.kernel.errors import OperatorError

pytestmark = pytest.mark.anyio

SCRIPT = """
steps:
  - id: look
    text: I will look.
    tools:
      - name: bash
        input: {command: "echo $$HOME"}
  - text: It says ${what}.
    values:
      what: {step: look, pattern: "said (.*)"}
"""
TOOLS = [{"name": "bash"}]
USER = {"role": "user", "content": [{"type": "text", "text": "go"}]}


@pytest.fixture
def model(tmp_path: Path) -> ScriptedModel:
    (tmp_path / "looker.yaml").write_text(SCRIPT)
    return ScriptedModel(tmp_path)


async def test_a_conversation_from_its_history_alone(model: ScriptedModel) -> None:
    deltas: list[Delta] = []
    first = await model.run(ModelRequest("scripted/looker", [USER], tools=TOOLS), deltas.append)
    assert list(first.content) == [
        {"type": "text", "text": "I will look."},
        {
            "type": "tool_use",
            "id": "toolu_scripted_1_1",
            "name": "bash",
            "input": {"command": "echo $HOME"},
        },
    ]
    assert first.stop_reason == "tool_use"
    assert deltas == [TextDelta(0, "I "), TextDelta(0, "will "), TextDelta(0, "look.")]
    again = await model.run(ModelRequest("scripted/looker", [USER], tools=TOOLS), deltas.append)
    assert again == first
    result = {"type": "tool_result", "tool_use_id": "toolu_scripted_1_1", "content": "said 42"}
    said = [
        USER,
        {"role": "assistant", "content": list(first.content)},
        {"role": "user", "content": [result]},
    ]
    last = await model.run(ModelRequest("scripted/looker", said), lambda _: None)
    assert (list(last.content), last.stop_reason) == (
        [{"type": "text", "text": "It says 42."}],
        "end_turn",
    )


async def test_a_script_that_cannot_go_on_says_so(model: ScriptedModel) -> None:
    reply = await model.run(ModelRequest("scripted/looker", [USER]), lambda _: None)
    assert reply.stop_reason == "end_turn"
    assert "cannot go on: 0 tools named 'bash'" in str(reply.content[0]["text"])


@pytest.mark.parametrize("name", ["absent", "../looker", "", "Looker", "a/b"])
async def test_unknown_scripts(model: ScriptedModel, name: str) -> None:
    with pytest.raises(ModelError, match="no script") as caught:
        await model.run(ModelRequest(f"scripted/{name}", [USER]), lambda _: None)
    assert (caught.value.failure, caught.value.retryable) == (Failure.REQUEST_FAILED, False)


async def test_without_a_directory_there_are_no_scripts() -> None:
    with pytest.raises(ModelError, match="--model-scripts"):
        await ScriptedModel(None).run(ModelRequest("scripted/looker", [USER]), lambda _: None)


async def test_pace_can_be_cancelled(tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text("{pace_s: 5, steps: [{text: one two}]}")
    deltas: list[Delta] = []
    with anyio.move_on_after(0.05) as scope:
        await ScriptedModel(tmp_path).run(ModelRequest("scripted/slow", [USER]), deltas.append)
    assert scope.cancelled_caught
    assert deltas == [TextDelta(0, "one ")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps: []", "correct steps"),
        ("steps: [{text: a, extra: 1}]", "steps.0.extra"),
        ("steps: [{values: {x: {step: a, pattern: '('}}}]", "pattern"),
        ("{", "no YAML"),
        ("", "no script"),
    ],
)
def test_bad_scripts_are_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(OperatorError, match=says):
        load_script(file)


def test_an_absent_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="absent"):
        load_script(tmp_path / "absent.yaml")


async def test_a_grader_and_what_a_step_used(tmp_path: Path) -> None:
    (tmp_path / "both.yaml").write_text(
        "{steps: [{text: work, usage: {input_tokens: 3, output_tokens: 2}}],"
        " grader: [{tools: [{name: grade_criteria}], usage: {cache_read_input_tokens: 7}}]}"
    )
    model = ScriptedModel(tmp_path)
    works = await model.run(ModelRequest("scripted/both", [USER]), lambda _: None)
    assert (works.content[0]["text"], works.usage) == ("work", Usage(3, 2))
    tools = [{"name": "grade_criteria"}]
    request = ModelRequest("scripted/both", [USER], tools=tools, purpose="grade")
    grades = await model.run(request, lambda _: None)
    assert (grades.content[0]["name"], grades.usage) == ("grade_criteria", Usage(0, 0, 0, 7))


JUDGING = """
steps:
  - despite_errors: true
    tools: [{name: bash}]
  - text: It failed.
judge:
  - {pattern: "rm -rf", verdict: deny, usage: {input_tokens: 3}}
  - {pattern: "talk"}
  - {pattern: "ls", verdict: allow}
"""


def judged(command: str) -> ModelRequest:
    document = {"wishes": [{"user_said": "rm -rf"}], "call": {"input": {"command": command}}}
    said = {"role": "user", "content": [{"type": "text", "text": json.dumps(document)}]}
    return ModelRequest("scripted/judging", [said], purpose="judge", must_call="judge_call")


async def test_a_judge_says_what_is_written_for_the_call(tmp_path: Path) -> None:
    (tmp_path / "judging.yaml").write_text(JUDGING)
    model = ScriptedModel(tmp_path)
    verdicts: list[object] = []
    for command in ("ls", "rm -rf /", "talk", "date"):
        reply = await model.run(judged(command), lambda _: None)
        found = [block["input"] for block in reply.content if block["type"] == "tool_use"]
        verdicts.append(found[0]["verdict"] if found else reply.stop_reason)
    assert verdicts == ["allow", "deny", "end_turn", "end_turn"]
    reply = await model.run(replace(judged(""), messages=[USER]), lambda _: None)
    assert "no call to judge" in str(reply.content)


async def test_a_step_may_go_on_despite_errors(tmp_path: Path) -> None:
    (tmp_path / "judging.yaml").write_text(JUDGING)
    model = ScriptedModel(tmp_path)
    first = await model.run(ModelRequest("scripted/judging", [USER], tools=TOOLS), lambda _: None)
    result = {"type": "tool_result", "tool_use_id": first.content[0]["id"], "is_error": True}
    said = [
        USER,
        {"role": "assistant", "content": list(first.content)},
        {"role": "user", "content": [result]},
    ]
    reply = await model.run(ModelRequest("scripted/judging", said), lambda _: None)
    assert reply.content == [{"type": "text", "text": "It failed."}]
