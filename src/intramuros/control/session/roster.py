"""What an agent may employ, and the tools with which its model does it. Pure.

The configuration comes in two forms (contract section 7); :func:`crew_of` reads both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from intramuros.protocol.resources.multiagent import CONSULT_TOOL, LIST_TOOL, SEND_TOOL

Json = Mapping[str, Any]
# name → (description, input schema)
Definitions = Mapping[str, tuple[str, Json]]

_LIST: Final = (
    "List the agents that you can delegate to, and the threads that you have started with their "
    "status."
)
_SEND: Final = (
    "Delegate work to another agent, or say more to one that is at work. Name an agent to start a "
    "new thread with it: it has its own context and knows only your message, but shares your "
    "sandbox and its files. Name a thread_id to follow up in that thread, which remembers. The "
    "call returns at once; agents work at the same time, and what each reports reaches you as a "
    "message when it is done. End your turn when you have nothing to do but wait."
)
_INLINE: Final = (
    " Instead of naming an agent you may define one with inline_agent; it has your model and tools "
    "and the instructions that you write."
)
_CONSULT: Final = (
    "Ask a stronger model for advice on your approach: before substantial work, when stuck, or "
    "before you say that you are done. It sees your conversation; there is nothing to pass."
)
_TEXT: Final = {"type": "string"}


@dataclass(frozen=True)
class Crew:
    """Whom an agent may employ.

    Args:
        agents: by the name that its model uses.
        inline: whether it may define agents of its own.
        advisor: the model that it may consult, or None.
    """

    agents: Mapping[str, Json]
    inline: bool
    advisor: str | None


def crew_of(multiagent: Json | None, team: str = "subagents") -> Crew:
    """Return whom a session's agent may employ.

    Args:
        multiagent: as the session shows it.
        team: for which purpose: ``subagents`` or ``workflows``, which a coordinator has not.
    """
    if multiagent is None or (multiagent["type"] == "coordinator" and team != "subagents"):
        return Crew({}, inline=False, advisor=None)
    if multiagent["type"] == "coordinator":
        members = [entry for entry in multiagent["agents"] if entry["type"] == "agent"]
        advisors = [entry["model"] for entry in multiagent["agents"] if entry["type"] == "advisor"]
        return Crew(_named(members), inline=False, advisor=advisors[0] if advisors else None)
    part = multiagent[team]
    inline = part.get("inline_agents", {}).get("type") == "enabled"
    members = part.get("predefined_agents", ())
    return Crew(_named(members), inline, multiagent["advisor"].get("model"))


def delegation_tools(multiagent: Json | None) -> Definitions:
    """Return the tools that an agent has for its crew, by name."""
    crew = crew_of(multiagent)
    tools: dict[str, tuple[str, Json]] = {}
    if crew.agents or crew.inline:
        tools[LIST_TOOL] = (_LIST, schema([]))
        tools[SEND_TOOL] = (_SEND + _INLINE * crew.inline, _sending(crew))
    if crew.advisor is not None:
        tools[CONSULT_TOOL] = (_CONSULT, schema([]))
    return tools


def _sending(crew: Crew) -> Json:
    named: dict[str, Json] = {}
    if crew.agents:
        named["agent"] = {**_TEXT, "enum": list(crew.agents), "description": described(crew)}
    if crew.inline:
        named["inline_agent"] = {
            "type": "object",
            "properties": {
                "name": {**_TEXT, "description": "What you call it."},
                "system": {**_TEXT, "description": "Its instructions."},
            },
            "required": ["name", "system"],
            "additionalProperties": False,
        }
    thread = {**_TEXT, "description": "A thread that you started."}
    message = {**_TEXT, "description": "The task or the follow-up, with all that it needs."}
    return schema(["message"], **named, thread_id=thread, message=message)


def described(crew: Crew) -> str:
    """Return what a model is told of the agents that it may name."""
    return "; ".join(
        f"{name}: {agent.get('description') or 'no description'}"
        for name, agent in crew.agents.items()
    )


def schema(required: list[str], **properties: Json) -> Json:
    """Return the JSON Schema of an object that has these members and no others."""
    return {
        "type": "object",
        "properties": {name: dict(value) for name, value in properties.items()},
        "required": required,
        "additionalProperties": False,
    }


def _named(members: Sequence[Json]) -> dict[str, Json]:
    """Name the agents apart: two may have the same name."""
    named: dict[str, Json] = {}
    for agent in members:
        name, number = str(agent["name"]), 1
        while name in named:
            number += 1
            name = f"{agent['name']} ({number})"
        named[name] = agent
    return named
