"""Which skills a session started with; kept with the session, whatever becomes of the skills."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import insert, select

from intramuros.control.store.db import Tx
from intramuros.control.store.session_tables import session_skills
from intramuros.control.store.tables import sessions
from intramuros.protocol.resources.skills import Manifest


@dataclass(frozen=True)
class SessionSkill:
    """A skill at a version, with the name and description that the version had."""

    skill_id: str
    version_id: str
    manifest: Manifest


def attach(tx: Tx, session_id: str, skills: Sequence[SessionSkill]) -> None:
    """Note a new session's skills."""
    for position, skill in enumerate(skills):
        tx.execute(
            insert(session_skills).values(
                session_id=session_id,
                skill_id=skill.skill_id,
                version_id=skill.version_id,
                position=position,
                name=skill.manifest.name,
                description=skill.manifest.description,
            )
        )


def of(tx: Tx, session_id: str) -> list[SessionSkill]:
    """Return a session's skills in the agent's order."""
    rows = tx.execute(
        select(session_skills)
        .where(session_skills.c.session_id == session_id)
        .order_by(session_skills.c.position)
    )
    return [
        SessionSkill(row.skill_id, row.version_id, Manifest(row.name, row.description))
        for row in rows
    ]


def in_session(tx: Tx, session_id: str, skill_id: str) -> bool:
    """Tell whether a session has a skill."""
    found = tx.scalar(
        select(session_skills.c.skill_id).where(
            session_skills.c.session_id == session_id, session_skills.c.skill_id == skill_id
        )
    )
    return found is not None


def in_environment(tx: Tx, environment_id: str, skill_id: str) -> bool:
    """Tell whether any session of an environment has a skill."""
    found = tx.scalar(
        select(session_skills.c.skill_id)
        .join(sessions, sessions.c.id == session_skills.c.session_id)
        .where(session_skills.c.skill_id == skill_id, sessions.c.environment_id == environment_id)
        .limit(1)
    )
    return found is not None
