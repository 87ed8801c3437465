"""From a view to the next model request. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from intramuros.control.model.base import ModelRequest
from intramuros.control.session.briefing import brief
from intramuros.control.session.calls import CallKind
from intramuros.control.session.conversation import CACHE, messages
from intramuros.control.session.toolset import Tool
from intramuros.control.session.view import View


def request(view: View, max_tokens: int) -> ModelRequest:
    """Return the next model request of a session.

    Args:
        max_tokens: the most that the reply may use.

    Raises:
        Unanswered: a tool use has no result.
    """
    agent = view.subject.agent
    model, tools = agent["model"], view.tools()
    return ModelRequest(
        model=model["id"],
        system=brief(agent.get("system"), _shown(view, tools), view.subject.skills),
        messages=messages(view.conversation),
        tools=definitions(tools),
        max_tokens=max_tokens,
        effort=_effort(model.get("effort")),
        files=view.conversation.files,
    )


def _shown(view: View, tools: Mapping[str, Tool]) -> Sequence[Mapping[str, Any]]:
    """Return what is mounted; skills of repositories are for agents that can read them (R203)."""
    read = tools.get("read")
    if read is not None and read.kind is CallKind.SANDBOX:
        return view.subject.resources
    return [
        {name: value for name, value in shown.items() if name != "_skills"}
        for shown in view.subject.resources
    ]


def definitions(tools: Mapping[str, Tool]) -> list[dict[str, Any]]:
    """Return the Messages API's tool definitions, with a cache breakpoint behind the last."""
    defined: list[dict[str, Any]] = [tool.definition() for tool in tools.values()]
    if defined:
        defined[-1]["cache_control"] = CACHE
    return defined


def _effort(effort: object) -> str | None:
    """Return the effort's name, which the snapshot shows as an object or as text."""
    if isinstance(effort, Mapping):
        effort = effort.get("type")
    return effort if isinstance(effort, str) else None
