"""A model that plays a script: deterministic, offline, and never mistaken for a real one.

Its model ids begin with ``scripted/``. The rest of the system cannot tell the difference: tools,
results, streaming and errors are the real ones.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import yaml
from pydantic import ValidationError

from intramuros.control.model.base import (
    Block,
    Delta,
    Failure,
    ModelError,
    ModelReply,
    ModelRequest,
    TextDelta,
    Usage,
)
from intramuros.control.model.script import (
    Progress,
    Script,
    ScriptStuck,
    Step,
    fill,
    tool_named,
)
from intramuros.kernel.errors import OperatorError

PREFIX: Final = "scripted/"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def load_script(file: Path) -> Script:
    """Read a script.

    Raises:
        OperatorError: the file is unreadable or no script.
    """
    try:
        return Script.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise OperatorError(
            f"cannot read the script {file} ({error.strerror})", "name an existing script"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OperatorError(f"{file} is no YAML", str(error).splitlines()[0]) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the script"
        raise OperatorError(f"{file} is no script", f"correct {where} ({first['msg']})") from error


class ScriptedModel:
    """A :class:`~intramuros.control.model.base.Model` that plays the scripts of a directory.

    ``scripted/<name>`` plays ``<name>.yaml``.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._scripts: dict[str, Script] = {}

    async def run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        """Play the step that the conversation has come to.

        Raises:
            ModelError: there is no such script.
        """
        script = self._script(request.model)
        if request.purpose == "judge":
            return await _judge(script, request)
        progress = Progress(script, request.messages)
        try:
            step = _step(script, progress, request)
            text, calls = _reply(step, progress, request)
            used = Usage(**dict(step.usage))
        except ScriptStuck as stuck:
            text, calls = f"The script {request.model} cannot go on: {stuck}.", []
            used = Usage()
        content: list[Block] = []
        if text:
            for word in re.findall(r"\S+\s*|\s+", text):
                on_delta(TextDelta(0, word))
                if script.pace_s:
                    await anyio.sleep(script.pace_s)
            content.append({"type": "text", "text": text})
        content.extend(calls)
        return ModelReply(content, "tool_use" if calls else "end_turn", used)

    def _script(self, model: str) -> Script:
        name = model.removeprefix(PREFIX)
        if self._directory is None or not _NAME.fullmatch(name):
            raise _unknown(model, "start the server with --model-scripts DIRECTORY")
        if name not in self._scripts:
            try:
                self._scripts[name] = load_script(self._directory / f"{name}.yaml")
            except OperatorError as error:
                raise _unknown(model, error.fix) from error
        return self._scripts[name]


async def _judge(script: Script, request: ModelRequest) -> ModelReply:
    try:
        found = script.judgement(request.messages)
    except ScriptStuck as stuck:
        return ModelReply([{"type": "text", "text": f"No verdict: {stuck}."}], "end_turn")
    await anyio.sleep(found.pace_s)
    used = Usage(**dict(found.usage))
    if found.verdict is None:
        return ModelReply([{"type": "text", "text": "I would rather not say."}], "end_turn", used)
    call: Block = {
        "type": "tool_use",
        "id": "toolu_scripted_judge",
        "name": request.must_call,
        "input": {"reason": "The script says so.", "verdict": found.verdict},
    }
    return ModelReply([call], "tool_use", used)


def _step(script: Script, progress: Progress, request: ModelRequest) -> Step:
    grading = request.purpose == "grade"
    return script.verdict(request.messages) if grading else progress.step()


def _reply(step: Step, progress: Progress, request: ModelRequest) -> tuple[str, list[Block]]:
    values = progress.values(step)
    calls: list[Block] = [
        {
            "type": "tool_use",
            "id": f"toolu_scripted_{progress.turns + 1}_{number}",
            "name": tool_named(call.name, request.tools),
            "input": fill(call.input, values),
        }
        for number, call in enumerate(step.tools, 1)
    ]
    return str(fill(step.text, values)), calls


def _unknown(model: str, fix: str) -> ModelError:
    return ModelError(
        Failure.REQUEST_FAILED,
        f"there is no script for the model {model!r}: {fix}",
        retryable=False,
    )
