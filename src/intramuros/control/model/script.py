"""A scripted conversation: which step is next, and what it says. Pure.

The step follows from the conversation alone, so that a repeated request gets the same reply: each
reply of ours moves one step on, unless a tool of it failed, which repeats the step. What a script
says about data is not written in it beforehand: it names the tool results to take values from.

A script is a mapping (``YAML`` or JSON)::

    steps:
      - id: count                      # for later steps to refer to
        text: Counting the rows.
        tools:
          - name: bash                 # or the bare name of an MCP tool
            input: {command: wc -l data.csv}
      - text: There are ${rows} rows.
        values:
          rows: {step: count, tool: 0, pattern: '(\\d+) data.csv'}
"""

import json
import re
from collections.abc import Mapping, Sequence
from string import Template
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from intramuros.control.model.base import Block

# A tool that fails this often in one step will not succeed by asking again.
MAX_REPEATS: Final = 3

# What a value's step is called when it is taken from the user's first message.
TASK: Final = "task"

Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ToolCall(_Part):
    """A call; texts inside ``input`` may hold ``${value}``."""

    name: str
    input: dict[str, JsonValue] = Field(default_factory=dict)


class Value(_Part):
    """A text taken from an earlier result: the pattern's first group, or its whole match.

    The step ``task`` is the user's first message.
    """

    step: Name
    tool: int = Field(default=0, ge=0)
    pattern: str

    @model_validator(mode="after")
    def _compiles(self) -> "Value":
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r}: {error}") from error
        return self


class Used(_Part):
    """Tokens that a reply says it used, so that prices, budgets and reports can be tried."""

    input_tokens: int = Field(default=0, ge=0, le=10**9)
    output_tokens: int = Field(default=0, ge=0, le=10**9)
    cache_creation_input_tokens: int = Field(default=0, ge=0, le=10**9)
    cache_read_input_tokens: int = Field(default=0, ge=0, le=10**9)


class Step(_Part):
    """One reply; it says that it used no tokens, unless ``usage`` counts them.

    A tool that fails repeats it, unless ``despite_errors``.
    """

    id: Name | None = None
    text: str = ""
    tools: tuple[ToolCall, ...] = ()
    despite_errors: bool = False
    values: dict[Name, Value] = Field(default_factory=dict)
    usage: Used = Field(default_factory=Used)


class Judgement(_Part):
    """What a judge of calls says of one that the pattern is found in.

    Without a verdict it talks instead of judging. ``pace_s`` is how long it thinks, in seconds.
    """

    pattern: str = ""
    verdict: Literal["allow", "deny", "cannot_tell"] | None = None
    pace_s: float = Field(default=0.0, ge=0.0, le=60.0)
    usage: Used = Field(default_factory=Used)

    @model_validator(mode="after")
    def _compiles(self) -> "Judgement":
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r}: {error}") from error
        return self


class Script(_Part):
    """A whole conversation. ``pace_s`` is the pause after each streamed word, in seconds.

    ``grader`` is what a grader of the work answers: one step for each evaluation, the last one
    again and again. ``judge`` is what a judge of calls answers: the first whose pattern is found in
    the call's JSON.
    """

    steps: tuple[Step, ...] = Field(min_length=1)
    grader: tuple[Step, ...] = ()
    judge: tuple[Judgement, ...] = ()
    pace_s: float = Field(default=0.0, ge=0.0, le=10.0)

    def verdict(self, messages: Sequence[Block]) -> Step:
        """Return the grader's step for the evaluation that a request is about.

        Raises:
            ScriptStuck: nobody wrote one.
        """
        if not self.grader:
            raise ScriptStuck("it has no grader")
        asked = _text(messages[0]) if messages else ""
        found = re.search(r'"iteration": (\d{1,4})', asked)
        return self.grader[min(int(found.group(1)) if found else 0, len(self.grader) - 1)]

    def judgement(self, messages: Sequence[Block]) -> Judgement:
        """Return what the judge says of the call that a request is about.

        Raises:
            ScriptStuck: nobody wrote anything for it.
        """
        try:
            call = json.loads(_text(messages[0]))["call"]
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ScriptStuck("the request shows no call to judge") from error
        shown = json.dumps(call, ensure_ascii=False)
        for judgement in self.judge:
            if re.search(judgement.pattern, shown):
                return judgement
        raise ScriptStuck("it has no judge for this call")


class ScriptStuck(ValueError):
    """The conversation went another way than the script: says how."""


class Progress:
    """Where a conversation stands in a script."""

    def __init__(self, script: Script, messages: Sequence[Block]) -> None:
        self.turns = 0
        self.position = 0
        self._repeats = 0
        self._script = script
        self._results: dict[str, list[Mapping[str, object]]] = {}
        calls: list[str] = []
        for message in messages:
            if message.get("role") == "user" and TASK not in self._results:
                self._results[TASK] = [message]
            if message.get("role") == "assistant":
                calls = [str(b.get("id")) for b in _blocks(message) if b.get("type") == "tool_use"]
                self.turns += 1
                if not calls:
                    self._advance([])
            elif calls:
                self._answer(calls, message)
                calls = []

    def step(self) -> Step:
        """Return the step to play now.

        Raises:
            ScriptStuck: it has ended, or a step's tools keep failing.
        """
        if self.position >= len(self._script.steps):
            raise ScriptStuck("it has no further step")
        if self._repeats > MAX_REPEATS:
            raise ScriptStuck(f"a tool of step {self.position + 1} failed {self._repeats} times")
        return self._script.steps[self.position]

    def values(self, step: Step) -> dict[str, str]:
        """Take a step's values from the results so far.

        Raises:
            ScriptStuck: a result is missing or does not match.
        """
        return {name: self._value(name, value) for name, value in step.values.items()}

    def _value(self, name: str, value: Value) -> str:
        results = self._results.get(value.step, [])
        if value.tool >= len(results):
            raise ScriptStuck(f"value {name!r} wants a result of step {value.step!r}")
        found = re.search(value.pattern, _text(results[value.tool]))
        if found is None:
            raise ScriptStuck(f"no {name!r} in the result of step {value.step!r}")
        return found.group(1) if found.re.groups else found.group(0)

    def _answer(self, calls: Sequence[str], message: Block) -> None:
        answers = {
            str(b.get("tool_use_id")): b for b in _blocks(message) if b.get("type") == "tool_result"
        }
        results = [answers[call] for call in calls if call in answers]
        failed = any(result.get("is_error") for result in results)
        if len(results) < len(calls) or (failed and not self._despite_errors()):
            self._repeats += 1
        else:
            self._advance(results)

    def _despite_errors(self) -> bool:
        steps = self._script.steps
        return self.position < len(steps) and steps[self.position].despite_errors

    def _advance(self, results: list[Mapping[str, object]]) -> None:
        if self.position < len(self._script.steps):
            step = self._script.steps[self.position]
            if step.id:
                self._results[step.id] = results
        self.position += 1
        self._repeats = 0


def fill(template: JsonValue, values: Mapping[str, str]) -> JsonValue:
    """Replace ``${value}`` in every text of a JSON value; ``$$`` is a dollar sign.

    Raises:
        ScriptStuck: a text names a value that the step does not take.
    """
    if isinstance(template, str):
        try:
            return Template(template).substitute(values)
        except (KeyError, ValueError) as error:
            raise ScriptStuck(f"a text of it cannot be filled in ({error})") from error
    if isinstance(template, list):
        return [fill(item, values) for item in template]
    if isinstance(template, dict):
        return {key: fill(item, values) for key, item in template.items()}
    return template


def tool_named(name: str, tools: Sequence[Block]) -> str:
    """Return the offered tool with this name, or the one MCP tool whose bare name it is.

    Raises:
        ScriptStuck: none, or more than one.
    """
    offered = [str(tool.get("name")) for tool in tools]
    if name in offered:
        return name
    matching = [full for full in offered if full.endswith(f"_{name}")]
    if len(matching) != 1:
        raise ScriptStuck(f"{len(matching)} tools named {name!r} are offered")
    return matching[0]


def _blocks(message: Block) -> list[Mapping[str, object]]:
    content = message.get("content")
    if not isinstance(content, Sequence) or isinstance(content, str):
        return []
    return [block for block in content if isinstance(block, Mapping)]


def _text(result: Mapping[str, object]) -> str:
    content = result.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(_text_of(block) for block in _blocks(result))


def _text_of(block: Mapping[str, object]) -> str:
    """Return the text of a block; of a search result with its address."""
    source = block.get("source")
    if block.get("type") == "search_result":
        return f"{source}\n{_text(block)}"
    if isinstance(source, Mapping):
        return str(source.get("data", "")) if source.get("type") == "text" else ""
    return str(block.get("text", ""))
