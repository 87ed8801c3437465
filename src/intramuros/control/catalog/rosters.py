"""Whom an agent may delegate to: what a request makes of it, and what a session gets of it.

Stored is what answers show, but for the agent itself: ``{"type": "self"}`` stands for it, because
its id and version are only known once it is stored. Saved agents are pinned to a version when the
roster is saved, and stay there (contract 7.4).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import AGENT
from intramuros.control.catalog.service import Resource
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.protocol.resources.multiagent import (
    ADVISOR_NAME,
    CONSULT_TOOL,
    LIST_TOOL,
    RUN_TOOL,
    SEND_TOOL,
    STOP_TOOL,
    Advisor,
    Coordinator,
    Disabled,
    Members,
    RosterAdvisor,
    RosterAgent,
    RosterEntry,
    RosterSelf,
    Team,
)

Config = dict[str, Any]

SELF: Final[Config] = {"type": "self"}
OFF: Final[Config] = {"type": "disabled"}
ON: Final[Config] = {"type": "enabled"}
_TOOLS: Final = frozenset({LIST_TOOL, SEND_TOOL, CONSULT_TOOL, RUN_TOOL, STOP_TOOL})
_TEAMS: Final = ("subagents", "workflows")


@dataclass(frozen=True)
class Owner:
    """The agent whose roster it is.

    Args:
        id: None while the agent is being created.
        config: its configuration as it will be stored, but for the roster.
    """

    workspace_id: str
    id: str | None
    config: Mapping[str, Any]


def settle(
    tx: Tx, owner: Owner, sent: Coordinator | Members | None, stored: Mapping[str, Any] | None
) -> Config | None:
    """Return the configuration to store, with every default and version resolved.

    Args:
        sent: what the request holds; None clears it.
        stored: the present one, on update.

    Raises:
        InvalidRequest: an agent is missing, archived, named twice or has a roster of its own; two
            pins of an inference geography differ; or something is asked for that this server does
            not have.
    """
    match sent:
        case None:
            return None
        case Coordinator():
            settled: Config = {"type": "coordinator", "agents": _roster(tx, owner, sent.agents)}
        case Members():
            same = stored is not None and stored["type"] == sent.type
            settled = _members(tx, owner, sent, stored if same and stored is not None else {})
    check(tx, owner, settled)
    return settled


def check(tx: Tx, owner: Owner, settled: Mapping[str, Any] | None) -> None:
    """Refuse a configuration that does not fit the agent that has it (contract 5.29, 7.3, 7.6).

    Raises:
        InvalidRequest: naming the problem.
    """
    if settled is None:
        return
    for tool in owner.config["tools"]:
        if tool["type"] == "custom" and tool["name"] in _TOOLS:
            raise InvalidRequest(
                f"tools: {tool['name']!r} is a tool of multiagent; name the custom tool otherwise"
            )
    for team in teams(settled):
        bodies = [_body(tx, owner, entry) for entry in team]
        names = [body["name"] for body in bodies]
        if advisor_model(settled) is not None and ADVISOR_NAME in names:
            raise InvalidRequest(
                f"multiagent: the name {ADVISOR_NAME!r} is the advisor's; rename the agent"
            )
        pins = {body["model"].get("inference_geo") for body in (*bodies, owner.config)}
        if len(pins) > 1:
            shown = ", ".join(sorted(str(pin) for pin in pins))
            raise InvalidRequest(
                "multiagent: the inference_geo of the agent and of its whole roster must be the "
                f"same, or set nowhere; found {shown}"
            )


def present(settled: Mapping[str, Any] | None, agent_id: str, version: int) -> Config | None:
    """Return the configuration as an agent shows it: references at versions (contract 7.5)."""
    own = {"type": "agent", "id": agent_id, "version": version}
    return _mapped(settled, lambda entry: own if entry["type"] == "self" else dict(entry))


def snapshot(tx: Tx, workspace_id: str, agent: Mapping[str, Any]) -> Config | None:
    """Return the configuration as a session shows it: full definitions (contract 7.5).

    Args:
        agent: the session's agent with its overrides, which its copies have too; its
            ``multiagent`` is as stored.
    """
    return _mapped(
        agent["multiagent"],
        lambda entry: (
            definition(agent["id"], agent["version"], agent)
            if entry["type"] == "self"
            else _definition_of(tx, workspace_id, entry)
        ),
    )


def members(multiagent: Mapping[str, Any] | None) -> list[Config]:
    """Return the full definitions that a session's snapshot holds, to be completed in place."""
    if multiagent is None:
        return []
    return [entry for team in teams(multiagent) for entry in team]  # type: ignore[misc]  # dicts


def renewed(agent: Config) -> Config:
    """Return a session's agent whose copies have its present configuration (contract 19.12)."""
    own = definition(agent["id"], agent["version"], agent)
    multiagent = _mapped(
        agent["multiagent"], lambda entry: own if entry.get("id") == agent["id"] else dict(entry)
    )
    return {**agent, "multiagent": multiagent}


def definition(agent_id: str, version: int, body: Mapping[str, Any]) -> Config:
    """Return an agent as the threads of a session show it: without a roster of its own."""
    named = ("name", "description", "model", "system", "tools", "mcp_servers", "skills")
    shown = {name: body[name] for name in (*named, "execution_identity")}
    return {"id": agent_id, "type": "agent", "version": version, **shown}


def teams(settled: Mapping[str, Any]) -> Iterator[list[Mapping[str, Any]]]:
    """Yield each list of agents in a configuration, the advisor left out."""
    if settled["type"] == "coordinator":
        yield [entry for entry in settled["agents"] if entry["type"] != "advisor"]
        return
    for name in _TEAMS:
        yield list(settled[name].get("predefined_agents", ()))


def advisor_model(settled: Mapping[str, Any]) -> str | None:
    """Return the model that the primary thread may consult, or None."""
    if settled["type"] == "coordinator":
        return next((e["model"] for e in settled["agents"] if e["type"] == "advisor"), None)
    model: str | None = settled["advisor"].get("model")
    return model


def _members(tx: Tx, owner: Owner, sent: Members, stored: Mapping[str, Any]) -> Config:
    """Merge level by level (contract 7.7 to 7.12)."""
    settled: Config = {"type": sent.type}
    for name in _TEAMS:
        team = getattr(sent, name) or Team(type="enabled")
        if not sent.sent(name) and name in stored:
            settled[name] = stored[name]
        elif isinstance(team, Disabled):
            settled[name] = dict(OFF)
        else:
            settled[name] = _team(tx, owner, f"multiagent.{name}", team, stored.get(name, {}))
    settled["advisor"] = _advisor(sent, stored)
    return settled


def _team(tx: Tx, owner: Owner, where: str, sent: Team, stored: Mapping[str, Any]) -> Config:
    kept = stored if stored.get("type") == sent.type else {}
    inline = sent.inline_agents.model_dump() if sent.inline_agents else dict(ON)
    if not sent.sent("inline_agents"):
        inline = kept.get("inline_agents", inline)
    if sent.sent("predefined_agents") or "predefined_agents" not in kept:
        agents = _roster(tx, owner, sent.predefined_agents or ())
    else:
        agents = kept["predefined_agents"]
    if inline["type"] == "disabled" and not agents:
        raise InvalidRequest(
            f"{where}: without inline_agents it needs at least one of predefined_agents"
        )
    return {"type": "enabled", "inline_agents": inline, "predefined_agents": agents}


def _advisor(sent: Members, stored: Mapping[str, Any]) -> Config:
    if not sent.sent("advisor") and "advisor" in stored:
        kept: Config = stored["advisor"]
        return kept
    if isinstance(sent.advisor, Advisor):
        return {"type": "enabled", "model": sent.advisor.model}
    return dict(OFF)


def _roster(tx: Tx, owner: Owner, sent: Sequence[RosterEntry]) -> list[Config]:
    """Return the entries at concrete versions, the advisor last (contract 7.3, 7.6)."""
    agents: list[Config] = []
    advisors: list[Config] = []
    for index, entry in enumerate(sent):
        where = f"multiagent: entry {index}"
        if isinstance(entry, RosterAdvisor):
            advisors.append({"type": "advisor", "model": entry.model})
            continue
        found = dict(SELF) if isinstance(entry, RosterSelf) else _pin(tx, owner, entry, where)
        if any(found.get("id") == other.get("id") for other in agents):
            raise InvalidRequest(f"{where}: the same agent is in the roster twice")
        agents.append(found)
    if len(advisors) > 1:
        raise InvalidRequest("multiagent: at most one advisor")
    return agents + advisors


def _pin(tx: Tx, owner: Owner, entry: str | RosterAgent, where: str) -> Config:
    """Return a saved agent at the version that is meant, the newest when none is named."""
    wanted = RosterAgent(type="agent", id=entry) if isinstance(entry, str) else entry
    if wanted.id == owner.id:
        raise InvalidRequest(f'{where}: this is the agent itself; write {{"type": "self"}}')
    try:
        found = service.get(tx, owner.workspace_id, AGENT, wanted.id, wanted.version)
    except NotFound as error:
        raise InvalidRequest(f"{where}: {error.message}") from error
    if found.archived_us is not None:
        raise InvalidRequest(f"{where}: agent {found.id!r} is archived")
    if found.body["multiagent"] is not None:
        raise InvalidRequest(
            f"{where}: agent {found.id!r} has a roster of its own; one level is the limit"
        )
    return {"type": "agent", "id": found.id, "version": found.version}


def _body(tx: Tx, owner: Owner, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    if entry["type"] == "self":
        return owner.config
    return _fetch(tx, owner.workspace_id, entry).body


def _definition_of(tx: Tx, workspace_id: str, entry: Mapping[str, Any]) -> Config:
    if entry["type"] == "advisor":
        return dict(entry)
    found = _fetch(tx, workspace_id, entry)
    return definition(found.id, found.version, found.body)


def _fetch(tx: Tx, workspace_id: str, entry: Mapping[str, Any]) -> Resource:
    return service.get(tx, workspace_id, AGENT, entry["id"], entry["version"])


def _mapped(
    settled: Mapping[str, Any] | None, change: Callable[[Mapping[str, Any]], Config]
) -> Config | None:
    """Return the configuration with every entry of its rosters changed."""
    if settled is None:
        return None
    if settled["type"] == "coordinator":
        return {**settled, "agents": [change(entry) for entry in settled["agents"]]}
    mapped: Config = dict(settled)
    for name in _TEAMS:
        if "predefined_agents" in settled[name]:
            agents = [change(entry) for entry in settled[name]["predefined_agents"]]
            mapped[name] = {**settled[name], "predefined_agents": agents}
    return mapped
