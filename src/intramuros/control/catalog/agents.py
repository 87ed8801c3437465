"""Agents: what a request makes of a stored configuration, and what a session gets of it.

``configure``, ``amend`` and ``override`` are pure; the rest runs in the caller's transaction.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from intramuros.control.catalog import allowances, geography, models, rosters, service, skills
from intramuros.control.catalog.kinds import AGENT
from intramuros.control.catalog.rosters import Owner
from intramuros.control.catalog.service import Resource
from intramuros.control.catalog.toolsets import (
    check_servers,
    check_skills,
    check_tools,
    resolve_servers,
    resolve_tools,
)
from intramuros.control.identity.actor import Actor
from intramuros.control.model.catalogue import Catalogue, shipped_catalogue
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import micros_rfc3339
from intramuros.protocol.resources.agents import (
    AgentCreate,
    AgentOverrides,
    AgentReference,
    AgentUpdate,
    ExecutionIdentity,
    Skill,
)
from intramuros.protocol.resources.base import merge_metadata
from intramuros.protocol.resources.skills import LATEST
from intramuros.protocol.resources.tools import Tool

Config = dict[str, Any]

_SNAPSHOT: Final = (
    "name",
    "description",
    "model",
    "system",
    "tools",
    "mcp_servers",
    "skills",
    "multiagent",
    "execution_identity",
)


def create(tx: Tx, actor: Actor, request: AgentCreate, known: Catalogue | None = None) -> Resource:
    """Store a new agent at version 1; ``known`` says what models take (the shipped list).

    Raises:
        InvalidRequest: the configuration contradicts itself.
        PermissionDenied: the workspace may not use a model.
    """
    config = configure(request, known)
    skills.check_references(tx, actor.workspace_id, config["skills"])
    geography.check(tx, actor.workspace_id, config["model"])
    owner = Owner(actor.workspace_id, None, config)
    config["multiagent"] = rosters.settle(tx, owner, request.multiagent, None)
    allowances.check_agent(tx, actor.workspace_id, config, known)
    return service.create(tx, actor, AGENT, config)


def update(
    tx: Tx, actor: Actor, agent_id: str, request: AgentUpdate, known: Catalogue | None = None
) -> Resource:
    """Store the next version, or nothing when nothing changes (contract 5.6 to 5.9).

    Raises:
        NotFound: no such agent here.
        Conflict: ``version`` was sent and is not the current one.
        InvalidRequest: archived, or the result contradicts itself.
        PermissionDenied: the workspace may not use a model.
    """
    current = service.get(tx, actor.workspace_id, AGENT, agent_id)
    service.check_active(AGENT, current)
    service.check_version(AGENT, current, request.version)
    config = amend(current.body, request, known)
    geography.check(tx, actor.workspace_id, config["model"])
    if request.sent("skills"):
        skills.check_references(tx, actor.workspace_id, config["skills"])
    owner = Owner(actor.workspace_id, agent_id, config)
    if request.sent("multiagent"):
        stored = current.body["multiagent"]
        config["multiagent"] = rosters.settle(tx, owner, request.multiagent, stored)
    else:
        rosters.check(tx, owner, config["multiagent"])
    allowances.check_agent(tx, actor.workspace_id, config, known)
    return service.change(tx, actor, AGENT, current, config)


def resolve(
    tx: Tx,
    workspace_id: str,
    agent: str | AgentReference | AgentOverrides,
    known: Catalogue | None = None,
) -> Config:
    """Return what a session runs: the agent's effective configuration, as the API shows it.

    The result is the whole ``agent`` member of a session (contract 10.2 to 10.7) and is not
    affected by later updates.

    Args:
        agent: the session's ``agent`` parameter; an id means the newest version.

    Raises:
        NotFound: no such agent or version here.
        InvalidRequest: archived, or the overrides do not fit.
        PermissionDenied: the workspace may not use a model.
    """
    reference = AgentReference(type="agent", id=agent) if isinstance(agent, str) else agent
    found = service.get(tx, workspace_id, AGENT, reference.id, reference.version)
    if found.archived_us is not None:
        raise InvalidRequest(f"agent {found.id!r} is archived and cannot start sessions")
    body = found.body
    if isinstance(reference, AgentOverrides):
        body = override(body, reference, known)
        owner = Owner(workspace_id, found.id, body)
        rosters.check(tx, owner, body["multiagent"])
    taken = snapshot(found, body)
    whole = {**taken, "multiagent": rosters.snapshot(tx, workspace_id, taken)}
    allowances.check_agent(tx, workspace_id, whole, known)
    return whole


def snapshot(found: Resource, body: Mapping[str, Any]) -> Config:
    """Return an agent as its sessions keep it, with the configuration that is in force."""
    return {
        "id": found.id,
        "type": "agent",
        "version": found.version,
        **{name: body[name] for name in _SNAPSHOT},
    }


def present(agent: Resource) -> Config:
    """Return the agent as answers show it."""
    return {
        "id": agent.id,
        "type": "agent",
        "version": agent.version,
        **agent.body,
        "multiagent": rosters.present(agent.body["multiagent"], agent.id, agent.version),
        "created_at": micros_rfc3339(agent.created_us),
        "updated_at": micros_rfc3339(agent.updated_us),
        "archived_at": None if agent.archived_us is None else micros_rfc3339(agent.archived_us),
    }


def configure(request: AgentCreate, known: Catalogue | None = None) -> Config:
    """Return the configuration of a new agent, with every default resolved.

    Raises:
        InvalidRequest: it contradicts itself.
    """
    config: Config = {
        "name": request.name,
        "description": request.description or None,
        "model": models.settle(known or shipped_catalogue(), request.model),
        "system": request.system or None,
        "tools": _tools(request.tools),
        "mcp_servers": resolve_servers(request.mcp_servers or ()),
        "skills": _skills(request.skills),
        "multiagent": None,
        "execution_identity": _identity(request.execution_identity),
        "metadata": dict(request.metadata or {}),
    }
    check_servers(config["tools"], config["mcp_servers"])
    check_skills(config["tools"], config["skills"])
    return config


def amend(
    stored: Mapping[str, Any], request: AgentUpdate, known: Catalogue | None = None
) -> Config:
    """Return the configuration after an update; what was not sent stays (contract 5.9 to 5.14).

    Raises:
        InvalidRequest: the result contradicts itself.
    """
    config: Config = dict(stored)
    if request.sent("name"):
        config["name"] = request.name
    if request.sent("model"):
        known = known or shipped_catalogue()
        config["model"] = models.settle(known, request.model, stored["model"])
    for field in ("description", "system"):
        if request.sent(field):
            config[field] = getattr(request, field) or None
    if request.sent("tools"):
        config["tools"] = _tools(request.tools)
    if request.sent("mcp_servers"):
        config["mcp_servers"] = resolve_servers(request.mcp_servers or ())
    if request.sent("skills"):
        config["skills"] = _skills(request.skills)
    if request.sent("execution_identity"):
        config["execution_identity"] = _identity(request.execution_identity)
    config["metadata"] = _merge(stored["metadata"], request.metadata)
    check_servers(config["tools"], config["mcp_servers"])
    check_skills(config["tools"], config["skills"])
    return config


def override(
    stored: Mapping[str, Any], request: AgentOverrides, known: Catalogue | None = None
) -> Config:
    """Return the configuration with a session's overrides (contract 10.3 to 10.6).

    Raises:
        InvalidRequest: the model was cleared, or the rest contradicts itself.
    """
    config: Config = dict(stored)
    if request.sent("model"):
        if request.model is None:
            raise InvalidRequest(
                "agent.model: cannot be cleared; omit it to keep the agent's model",
                code="agent_model_required",
            )
        config["model"] = models.overridden(known or shipped_catalogue(), request.model)
    if request.sent("system"):
        config["system"] = request.system or None
    if request.sent("tools"):
        config["tools"] = _tools(request.tools)
    if request.sent("mcp_servers"):
        config["mcp_servers"] = resolve_servers(request.mcp_servers or ())
    if request.sent("skills"):
        config["skills"] = _skills(request.skills)
    used = {t["mcp_server_name"] for t in config["tools"] if t["type"] == "mcp_toolset"}
    # Servers that no tool uses any more are harmless here: overrides replace one field at a time.
    check_servers(config["tools"], [s for s in config["mcp_servers"] if s["name"] in used])
    check_skills(config["tools"], config["skills"])
    return config


def _tools(tools: Sequence[Tool] | None) -> list[Config]:
    check_tools(tools or ())
    return resolve_tools(tools or ())


def _skills(sent: Sequence[Skill] | None) -> list[Config]:
    seen = set()
    for index, skill in enumerate(sent or ()):
        if skill.skill_id in seen:
            raise InvalidRequest(f"skills[{index}]: {skill.skill_id!r} appears twice")
        seen.add(skill.skill_id)
    return [
        {"type": skill.type, "skill_id": skill.skill_id, "version": skill.version or LATEST}
        for skill in sent or ()
    ]


def _identity(identity: ExecutionIdentity | None) -> dict[str, str]:
    if identity is None:
        return {"type": "service_account"}
    return identity.model_dump(exclude_none=True)


def _merge(stored: dict[str, str], patch: dict[str, str | None] | None) -> dict[str, str]:
    try:
        return merge_metadata(stored, patch)
    except ValueError as error:
        raise InvalidRequest(f"metadata: {error}") from error
