"""Repositories of sessions: chosen when a session is created, and fixed for its life.

What becomes of a checkout lies with the resource, under names that begin with ``_`` and are never
shown: ``_state`` (waiting, cloning, ready, failed), until when a turn waits for it, which attempt
was told of last, and the skills that were found in it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from intramuros.control.identity.actor import Actor
from intramuros.control.session.uploads import check_free
from intramuros.control.store.db import Tx
from intramuros.control.store.repository_tokens import Tokens
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import rfc3339, to_micros
from intramuros.protocol.resources.mounts import WORKSPACE
from intramuros.protocol.resources.repositories import (
    RepositoryParam,
    RepositoryReport,
    RepositoryResource,
    Trouble,
)

Shown = dict[str, Any]

KIND: Final = "github_repository"
# Where an agent's own skills lie in its sandbox.
SKILLS: Final = f"{WORKSPACE}/skills"
# A turn waits this long for a worker to begin with a checkout, and then for the checkout: the model
# is to know the skills in it from its first word on, but a session must not hang.
PATIENCE_US: Final = 180 * 1_000_000
CLONE_US: Final = 1_200 * 1_000_000
_PENDING: Final = frozenset({"waiting", "cloning"})
_WHY: Final[Mapping[Trouble, str]] = {
    "authentication": "the host rejected the token, or wants one; rotate it or give one",
    "forbidden": "the host refused access; check what the token may do",
    "not_found": "the host knows no such repository, or does not show it to this token",
    "checkout": "{what} does not exist in it",
    "unreachable": "the host could not be reached",
    "too_large": "it does not fit into the sandbox's disk",
    "too_slow": "it took too long",
    "no_git": "the sandbox's image has no git",
    "in_the_way": "something else is at {place}",
    "failed": "git could not clone it; the worker's log says more",
}


def check_places(wanted: Sequence[RepositoryParam]) -> None:
    """Make sure that each repository has a place of its own.

    Raises:
        InvalidRequest: two are in each other's way.
    """
    taken: list[str] = []
    for param in wanted:
        check_free(param.place, taken)
        taken.append(param.place)


def mount(actor: Actor, wanted: Sequence[RepositoryParam]) -> list[Shown]:
    """Return a new session's repositories as they are stored.

    Raises:
        InvalidRequest: two are in each other's way.
    """
    check_places(wanted)
    now = actor.clock.now()
    return [
        {
            **RepositoryResource(
                id=actor.ids.new("sesrsc"),
                url=param.url,
                mount_path=param.place,
                checkout=param.checkout,
                created_at=rfc3339(now),
                updated_at=rfc3339(now),
            ).model_dump(),
            "_state": "waiting",
            "_until_us": to_micros(now) + PATIENCE_US,
        }
        for param in wanted
    ]


def record(
    tx: Tx,
    tokens: Tokens,
    session_id: str,
    mounted: Sequence[Shown],
    wanted: Sequence[object],
) -> bool:
    """Keep the tokens of a new session's repositories.

    Args:
        mounted: the session's resources.
        wanted: what they were made of.

    Returns:
        True if it has any repositories.
    """
    params = [param for param in wanted if isinstance(param, RepositoryParam)]
    for shown, param in zip(of(mounted), params, strict=True):
        if param.authorization_token is not None:
            tokens.put(tx, shown["id"], param.authorization_token, session_id=session_id)
    return bool(params)


def of(resources: Sequence[Shown]) -> list[Shown]:
    """Return the repositories among a session's resources."""
    return [shown for shown in resources if shown["type"] == KIND]


def check_beside_skills(resources: Sequence[Shown]) -> None:
    """Refuse repositories where the agent's own skills lie.

    Raises:
        InvalidRequest: one is there.
    """
    for shown in of(resources):
        if f"{shown['mount_path']}/".startswith(f"{SKILLS}/"):
            raise InvalidRequest(
                f"mount_path: the skills of this agent lie in {SKILLS}; choose another place for "
                f"{shown['url']}"
            )


def ready_us(resources: Sequence[Shown], now_us: int) -> int:
    """Return when a turn may begin, in microseconds: checkouts may be waited for."""
    pending = [shown for shown in of(resources) if shown["_state"] in _PENDING]
    waits: list[int] = [shown["_until_us"] for shown in pending]
    return max([now_us, *waits])


def begun(shown: Shown, now_us: int) -> Shown:
    """Return a repository that a worker has begun to check out, unless it did so before."""
    if shown["type"] != KIND or shown["_state"] not in _PENDING:
        return shown
    return {**shown, "_state": "cloning", "_until_us": now_us + CLONE_US}


def renewed(shown: Shown, resource_id: str, actor: Actor) -> Shown:
    """Return a resource as it is once its token was rotated; any other stays as it was."""
    if shown.get("id") != resource_id:
        return shown
    return {**shown, "updated_at": rfc3339(actor.clock.now())}


def told(shown: Shown, report: RepositoryReport) -> Shown:
    """Return a repository after a report; skills are picked up once (contract-2 R203)."""
    more: Shown = {"_state": "ready" if report.trouble is None else "failed"}
    if report.trouble is None and "_skills" not in shown:
        more["_skills"] = [skill.model_dump() for skill in report.skills]
    return {**shown, **more, "_attempt": report.attempt}


def explain(shown: Mapping[str, Any], trouble: Trouble) -> str:
    """Return what an error says (contract-2 R396)."""
    checkout = shown["checkout"] or {}
    what = f"{checkout.get('type')} {checkout.get('name') or checkout.get('sha')!r}"
    why = _WHY[trouble].format(what=what, place=shown["mount_path"])
    return f"{shown['url']} was not checked out: {why}. The session goes on without it."
