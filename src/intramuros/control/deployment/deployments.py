"""Deployments: create, change, pause, archive, list; all in the caller's transaction.

What is configured is a resource like any other; where its schedule stands is a row of its own. Each
change of that row offers the time of the next run to the durable queue, where a scheduler
(scheduler.py) finds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, bindparam, func, insert, select, update

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import DEPLOYMENT
from intramuros.control.catalog.service import Resource
from intramuros.control.deployment.configure import Reader, timetable
from intramuros.control.deployment.mounted import keep_tokens
from intramuros.control.deployment.timetable import Timetable
from intramuros.control.identity.actor import Actor
from intramuros.control.model.catalogue import Catalogue
from intramuros.control.store import leases, repository_tokens
from intramuros.control.store.db import Tx
from intramuros.control.store.deployment_tables import deployments
from intramuros.control.store.keyset import beyond
from intramuros.control.store.repository_tokens import Tokens
from intramuros.control.store.tables import resources
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import to_micros
from intramuros.protocol.resources.deployments import DeploymentCreate, DeploymentUpdate, Status

QUEUE: Final = "deployment"
# Of an installation, archived ones not counted (contract-2 R220).
MAX_SCHEDULED: Final = 1_000

MANUAL: Final = {"type": "manual"}
# What a deployment has unless it is told otherwise.
_NEW: Final[Mapping[str, Any]] = {
    "description": None,
    "metadata": {},
    "resources": [],
    "vault_ids": [],
    "schedule": None,
    "budget": None,
    "paused_reason": None,
}


@dataclass(frozen=True)
class Deployment:
    """A deployment and where its schedule stands; times in microseconds since the epoch.

    Args:
        resource: what is configured.
        next_us: the first nominal time that has not been dealt with; None if there is none, or
            while paused.
        last_run_us: when the newest scheduled run started.
    """

    resource: Resource
    next_us: int | None
    last_run_us: int | None

    @property
    def body(self) -> Mapping[str, Any]:
        """What is configured."""
        return self.resource.body

    def timetable(self) -> Timetable | None:
        """Return its times, or None without a schedule.

        Raises:
            ValueError: this machine no longer knows its time zone.
        """
        return timetable(self.resource.id, self.body["schedule"])


@dataclass(frozen=True)
class Query:
    """Which deployments to list; bounds in microseconds, inclusive."""

    limit: int
    after: tuple[int, str] | None = None
    include_archived: bool = False
    agent_id: str | None = None
    status: Status | None = None
    created_gte_us: int | None = None
    created_lte_us: int | None = None


class Deployments:
    """What callers may do with deployments."""

    def __init__(self, tokens: Tokens, models: Catalogue | None = None) -> None:
        self._tokens = tokens
        self._models = models

    def create(self, tx: Tx, actor: Actor, request: DeploymentCreate) -> Deployment:
        """Store a deployment.

        Raises:
            NotFound: no such agent, version, environment, vault or memory store here.
            InvalidRequest: one of them is archived, the schedule can never fire, there are too many
                schedules, or something is asked for that this server does not have.
            TooLarge: more initial events than are kept.
        """
        body = {**_NEW, **self._reader(tx, actor).read(request)}
        if body["schedule"]:
            _check_count(tx)
        made = service.create(tx, actor, DEPLOYMENT, body)
        tx.execute(
            insert(deployments).values(
                id=made.id,
                workspace_id=made.workspace_id,
                created_us=made.created_us,
                agent_id=body["agent"]["id"],
                paused=False,
                scheduled=body["schedule"] is not None,
            )
        )
        keep_tokens(tx, self._tokens, made.id, body["resources"], request.resources)
        return plan(tx, actor, Deployment(made, None, None))

    def update(
        self, tx: Tx, actor: Actor, deployment_id: str, request: DeploymentUpdate
    ) -> Deployment:
        """Change a deployment; what was not sent stays (contract-2 R212, R213).

        Sessions that it started before keep what they have. A schedule that is sent again as it was
        keeps its place; another one starts with its next time.

        Raises:
            NotFound: no such deployment here, or what it is to refer to.
            InvalidRequest: it is archived, or as :meth:`create`.
            TooLarge: more initial events than are kept.
        """
        current = get(tx, actor.workspace_id, deployment_id)
        service.check_active(DEPLOYMENT, current.resource)
        body = {**current.body, **self._reader(tx, actor).read(request, current.body)}
        moved = body["schedule"] != current.body["schedule"]
        if body["schedule"] and not current.body["schedule"]:
            _check_count(tx)
        changed = service.change(tx, actor, DEPLOYMENT, current.resource, body)
        if request.sent("resources"):
            keep_tokens(tx, self._tokens, deployment_id, body["resources"], request.resources)
        _set(
            tx,
            deployment_id,
            agent_id=body["agent"]["id"],
            scheduled=body["schedule"] is not None,
        )
        after = replace(current, resource=changed)
        return plan(tx, actor, after) if moved else after

    def _reader(self, tx: Tx, actor: Actor) -> Reader:
        return Reader(tx, actor, self._models)


def get(tx: Tx, workspace_id: str, deployment_id: str) -> Deployment:
    """Return a deployment.

    Raises:
        NotFound: no such deployment here.
    """
    found = service.get(tx, workspace_id, DEPLOYMENT, deployment_id)
    row = tx.execute(_STATE, {"of_id": found.id}).first()
    if row is None:
        raise NotFound(f"no deployment {deployment_id[:80]!r}")
    return Deployment(found, row.next_us, row.last_run_us)


def pause(
    tx: Tx, actor: Actor, deployment_id: str, reason: Mapping[str, Any] = MANUAL
) -> Deployment:
    """Stop scheduled runs; one that is paused stays as it is (contract-2 R222, Q19).

    Raises:
        NotFound: no such deployment here.
        InvalidRequest: it is archived.
    """
    current = get(tx, actor.workspace_id, deployment_id)
    service.check_active(DEPLOYMENT, current.resource)
    if current.body["paused_reason"] is not None:
        return current
    body = {**current.body, "paused_reason": dict(reason)}
    paused = service.change(tx, actor, DEPLOYMENT, current.resource, body, act="pause")
    _set(tx, deployment_id, paused=True)
    return plan(tx, actor, replace(current, resource=paused))


def unpause(tx: Tx, actor: Actor, deployment_id: str) -> Deployment:
    """Let the schedule go on with its next time; what was missed stays so (contract-2 R223).

    Raises:
        NotFound: no such deployment here.
        InvalidRequest: it is archived.
    """
    current = get(tx, actor.workspace_id, deployment_id)
    service.check_active(DEPLOYMENT, current.resource)
    if current.body["paused_reason"] is None:
        return current
    body = {**current.body, "paused_reason": None}
    going = service.change(tx, actor, DEPLOYMENT, current.resource, body, act="unpause")
    _set(tx, deployment_id, paused=False)
    return plan(tx, actor, replace(current, resource=going))


def archive(tx: Tx, actor: Actor, deployment_id: str) -> Deployment:
    """End a deployment for good; a second time changes nothing (contract-2 R223, Q19).

    A paused one is active from then on, as the contract has it (R209).

    Raises:
        NotFound: no such deployment here.
    """
    current = get(tx, actor.workspace_id, deployment_id)
    if current.resource.archived_us is not None:
        return current
    archived = service.archive(tx, actor, current.resource)
    repository_tokens.wipe_deployment(tx, deployment_id)
    _set(tx, deployment_id, archived_us=archived.archived_us, scheduled=False, paused=False)
    return plan(tx, actor, replace(current, resource=archived))


def archive_of_agent(tx: Tx, actor: Actor, agent_id: str) -> None:
    """Archive what runs an agent, in the transaction that archives the agent (R224)."""
    running = (
        select(deployments.c.id)
        .where(deployments.c.agent_id == agent_id, deployments.c.archived_us.is_(None))
        .order_by(deployments.c.id)
    )
    for deployment_id in tx.execute(running).scalars().all():
        archive(tx, actor, deployment_id)


def find(tx: Tx, workspace_id: str, query: Query) -> tuple[list[Deployment], bool]:
    """Return a page, newest first, and whether there is more."""
    # An agent has one workspace: an expression keeps the planner from looking all of it through.
    of = deployments.c.workspace_id
    rows = tx.execute(
        select(resources, deployments.c.next_us, deployments.c.last_run_us)
        .join(deployments, deployments.c.id == resources.c.id)
        .where((of if query.agent_id is None else of + "") == workspace_id, *_filters(query))
        .order_by(*(key.desc() for key in _KEYS))
        .limit(query.limit + 1)
    ).all()
    return [_deployment(row) for row in rows[: query.limit]], len(rows) > query.limit


def plan(tx: Tx, actor: Actor, current: Deployment) -> Deployment:
    """Point a deployment's schedule at its next time from now on, if it has one."""
    now_us = to_micros(actor.clock.now())
    table = current.timetable() if _goes_on(current.resource) else None
    fire = table.first(now_us) if table else None
    next_us = None if fire is None else fire.nominal_us
    _set(tx, current.resource.id, next_us=next_us)
    if fire:
        leases.offer(tx, QUEUE, current.resource.id, now_us, at_us=fire.at_us)
    elif current.resource.archived_us is not None:
        leases.drop(tx, QUEUE, current.resource.id)
    return replace(current, next_us=next_us)


def advance(tx: Tx, current: Deployment, next_us: int | None, ran_us: int | None = None) -> None:
    """Note that the times before ``next_us`` are dealt with.

    Args:
        ran_us: when a run started, if one did.
    """
    more = {} if ran_us is None else {"last_run_us": ran_us}
    _set(tx, current.resource.id, next_us=next_us, **more)


def _goes_on(resource: Resource) -> bool:
    return resource.archived_us is None and resource.body["paused_reason"] is None


def _set(tx: Tx, deployment_id: str, **values: object) -> None:
    tx.execute(update(deployments).where(deployments.c.id == deployment_id).values(**values))


def _check_count(tx: Tx) -> None:
    count = select(func.count()).select_from(deployments).where(deployments.c.scheduled)
    if (tx.scalar(count) or 0) >= MAX_SCHEDULED:
        raise InvalidRequest(
            f"schedule: an organization has at most {MAX_SCHEDULED} scheduled deployments; "
            "archive one or take its schedule away"
        )


def _filters(query: Query) -> list[ColumnElement[bool]]:
    table = deployments.c
    wanted: list[ColumnElement[bool]] = []
    if not query.include_archived:
        wanted.append(table.archived_us.is_(None))
    if query.agent_id is not None:
        wanted.append(table.agent_id == query.agent_id)
    if query.status is not None:
        wanted.append(table.paused == (query.status == "paused"))
    if query.created_gte_us is not None:
        wanted.append(table.created_us >= query.created_gte_us)
    if query.after is not None:
        # It lies within the bounds, so it is the closer one on its side.
        wanted.append(beyond(_KEYS, query.after, ascending=False))
    elif query.created_lte_us is not None:
        wanted.append(table.created_us <= query.created_lte_us)
    return wanted


def _deployment(row: Row[Any]) -> Deployment:
    fields = {name: getattr(row, name) for name in Resource.__dataclass_fields__}
    return Deployment(Resource(**fields), row.next_us, row.last_run_us)


_KEYS: Final = (deployments.c.created_us, deployments.c.id)
_STATE: Final = select(deployments.c.next_us, deployments.c.last_run_us).where(
    deployments.c.id == bindparam("of_id")
)
