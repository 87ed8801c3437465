"""Skills, their versions, and what agents and sessions make of references to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import SKILL, SKILL_VERSION
from intramuros.control.catalog.service import Resource
from intramuros.control.identity.actor import Actor
from intramuros.control.store import holdings
from intramuros.control.store.blobs import Blob
from intramuros.control.store.db import Tx
from intramuros.control.store.session_skills import SessionSkill
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339
from intramuros.protocol.resources import skills as shapes
from intramuros.protocol.resources.skills import LATEST, Manifest

_PAGE: Final = 100
# The name of the refusal when a referenced skill is gone (contract-2 Q34).
NOT_FOUND_CODE: Final = "skill_not_found_error"


@dataclass(frozen=True)
class Upload:
    """A version whose archive is durable already."""

    manifest: Manifest
    blob: Blob
    quota_bytes: int


# Distinct skills of all agents of a session together (R201).
MAX_SESSION_SKILLS: Final = 500


def create(tx: Tx, actor: Actor, upload: Upload, display_name: str | None) -> Resource:
    """Store a new skill with its first version.

    Raises:
        InvalidRequest: it does not fit any more.
    """
    body = {
        "display_name": display_name or upload.manifest.name,
        "name": upload.manifest.name,
        "latest_version_id": None,
    }
    made = service.create(tx, actor, SKILL, body)
    version = _store(tx, actor, made, upload)
    return _point(tx, actor, made, version.id)


def add_version(tx: Tx, actor: Actor, skill_id: str, upload: Upload) -> Resource:
    """Store a skill's next version, which becomes its latest.

    Raises:
        NotFound: no such skill.
        InvalidRequest: it has another name, or does not fit any more (contract-2 R195).
    """
    skill = service.get(tx, actor.workspace_id, SKILL, skill_id)
    if upload.manifest.name != skill.body["name"]:
        raise InvalidRequest(
            f"files: this skill's name is {skill.body['name']!r}, "
            f"and every version's is; this one's is {upload.manifest.name!r}"
        )
    version = _store(tx, actor, skill, upload)
    _point(tx, actor, skill, version.id)
    return version


def version_of(
    tx: Tx, workspace_id: str, skill_id: str, version: str, *, alias: bool = False
) -> Resource:
    """Return a version of a skill.

    Args:
        alias: whether ``latest`` means the newest one (contract-2 R196).

    Raises:
        NotFound: no such skill or version.
    """
    skill = service.get(tx, workspace_id, SKILL, skill_id)
    version_id = skill.body["latest_version_id"] if alias and version == LATEST else version
    found = service.get(tx, workspace_id, SKILL_VERSION, version_id)
    if found.parent_id != skill_id:
        raise NotFound(f"no version {version[:80]!r} of skill {skill_id!r}")
    return found


def archive_of(tx: Tx, version: Resource) -> Blob:
    """Return where a version's archive is."""
    blob = holdings.of(tx, version.id)
    assert blob is not None, "a version's archive does not expire"
    return blob


def remove(tx: Tx, actor: Actor, skill_id: str) -> list[str]:
    """Delete a skill with all its versions and return the keys of the blobs that may go.

    Sessions that use it go on with what they have; later ones do not start (contract-2 Q34).

    Raises:
        NotFound: no such skill.
    """
    skill = service.get(tx, actor.workspace_id, SKILL, skill_id)
    keys: list[str] = []
    while versions := _newest(tx, skill, _PAGE):
        for version in versions:
            service.remove(tx, actor, version)
        keys += holdings.drop(tx, [version.id for version in versions])
    service.remove(tx, actor, skill)
    return keys


def remove_version(tx: Tx, actor: Actor, skill_id: str, version_id: str) -> list[str]:
    """Delete one version and return the keys of the blobs that may go (contract-2 R198, Q34).

    Raises:
        NotFound: no such skill or version.
        InvalidRequest: it is the only one.
    """
    version = version_of(tx, actor.workspace_id, skill_id, version_id)
    skill = service.get(tx, actor.workspace_id, SKILL, skill_id)
    others = [other for other in _newest(tx, skill, 2) if other.id != version_id]
    if not others:
        raise InvalidRequest(
            f"version {version_id!r} is the only one of skill {skill_id!r}; delete the skill"
        )
    if skill.body["latest_version_id"] == version_id:
        _point(tx, actor, skill, others[0].id)
    service.remove(tx, actor, version)
    return holdings.drop(tx, [version_id])


def check_references(tx: Tx, workspace_id: str, skills: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an agent whose skills do not exist (contract-1 5.25, AMB 46).

    Raises:
        InvalidRequest: naming the reference.
    """
    for index, reference in enumerate(skills):
        _resolve(tx, workspace_id, reference, f"skills[{index}]")


def pin(
    tx: Tx, workspace_id: str, skills: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[SessionSkill]]:
    """Return a session's skills at concrete versions, and what its model is told of them.

    Raises:
        InvalidRequest: one is gone, or two would share a directory (contract-1 AMB 45).
    """
    pinned: list[dict[str, Any]] = []
    told: dict[str, SessionSkill] = {}
    for index, reference in enumerate(skills):
        version = _resolve(tx, workspace_id, reference, f"agent.skills[{index}]")
        name, skill_id = version.body["name"], reference["skill_id"]
        if name in told:
            raise InvalidRequest(
                f"agent.skills[{index}]: {skill_id!r} and {told[name].skill_id!r} are both named "
                f"{name!r} and would share a directory"
            )
        manifest = Manifest(name, version.body["description"])
        told[name] = SessionSkill(skill_id, version.id, manifest)
        pinned.append({**reference, "version": version.id})
    return pinned, list(told.values())


def pin_all(tx: Tx, workspace_id: str, agents: Sequence[dict[str, Any]]) -> list[SessionSkill]:
    """Pin the skills of all agents of a session in place, and return what they are.

    Agents may share a skill; their sandbox is one, so they share its version too.

    Raises:
        InvalidRequest: as :func:`pin`, also across agents; or more than R201 allows.
    """
    told: dict[str, SessionSkill] = {}
    for agent in agents:
        agent["skills"], own = pin(tx, workspace_id, agent["skills"])
        for skill in own:
            known = told.setdefault(skill.manifest.name, skill)
            if known != skill:
                raise InvalidRequest(
                    f"agent {agent['name']!r}: its skill {skill.skill_id!r} would share the "
                    f"directory {skill.manifest.name!r} with another agent's skill or version"
                )
    if len(told) > MAX_SESSION_SKILLS:
        raise InvalidRequest(
            f"the agents have {len(told)} skills; a session takes {MAX_SESSION_SKILLS}"
        )
    return list(told.values())


def present(skill: Resource) -> dict[str, Any]:
    """Return the skill as answers show it (contract-2 R187)."""
    return shapes.Skill(
        id=skill.id,
        display_name=skill.body["display_name"],
        latest_version_id=skill.body["latest_version_id"],
        created_at=rfc3339(from_micros(skill.created_us)),
        updated_at=rfc3339(from_micros(skill.updated_us)),
    ).model_dump()


def present_version(version: Resource) -> dict[str, Any]:
    """Return the version as answers show it (contract-2 R188)."""
    return shapes.SkillVersion(
        id=version.id,
        skill_id=str(version.parent_id),
        name=version.body["name"],
        description=version.body["description"],
        created_at=rfc3339(from_micros(version.created_us)),
    ).model_dump()


def _resolve(tx: Tx, workspace_id: str, reference: Mapping[str, Any], where: str) -> Resource:
    skill_id, version = reference["skill_id"], reference["version"]
    if reference["type"] != "custom":
        raise InvalidRequest(
            f"{where}: this server has no built-in skills; upload {skill_id!r} as a custom one"
        )
    try:
        return version_of(tx, workspace_id, skill_id, version, alias=True)
    except NotFound as error:
        raise InvalidRequest(f"{where}: {error.message}", code=NOT_FOUND_CODE) from error


def _store(tx: Tx, actor: Actor, skill: Resource, upload: Upload) -> Resource:
    holdings.check_quota(tx, upload.blob.size_bytes, upload.quota_bytes)
    body = {
        "name": upload.manifest.name,
        "description": upload.manifest.description,
        "size_bytes": upload.blob.size_bytes,
        "sha256": upload.blob.sha256,
    }
    made = service.create(tx, actor, SKILL_VERSION, body, parent_id=skill.id)
    holdings.take(tx, actor.workspace_id, made.id, upload.blob)
    return made


def _point(tx: Tx, actor: Actor, skill: Resource, version_id: str) -> Resource:
    return service.change(tx, actor, SKILL, skill, {**skill.body, "latest_version_id": version_id})


def _newest(tx: Tx, skill: Resource, count: int) -> list[Resource]:
    query = service.Query(count, include_archived=True, parent_id=skill.id)
    return service.find(tx, skill.workspace_id, SKILL_VERSION, query)[0]
