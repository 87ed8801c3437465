"""Fires what is due. Every server runs one; they share the work through the durable queue.

A fire is a claim in one transaction, and the run with its session in another, which succeeds only
while the claim is the newest: a process that dies between the two leaves a lease that lapses, one
that was only believed dead can no longer write. Which times were dealt with stands in the
deployment's own row, so that what is written is decided on what is there at that moment, whatever
the claim was once made for.
"""

from functools import partial
from typing import Final

import anyio
from sqlalchemy import select

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import AGENT
from intramuros.control.deployment import deployments, runs
from intramuros.control.deployment.causes import PAUSES, RunError
from intramuros.control.deployment.deployments import QUEUE, Deployment
from intramuros.control.deployment.runs import Runs, Texts
from intramuros.control.deployment.timetable import Fire, Plan
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import SCHEDULE, CredentialKind, Principal
from intramuros.control.store import leases
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.leases import Lease, LostLease
from intramuros.control.store.tables import resources
from intramuros.kernel.errors import DomainError, NotFound, Unavailable
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import from_micros, rfc3339, to_micros

log = logger("schedules")

# How often to look for due fires, in seconds; each trails its nominal time by more than that.
POLL_S: Final = 2.0
# A batch of fires is a few transactions; a process that takes this long for one is dead.
LEASE_S: Final = 60.0
# Claimed at once: transactions that share one commit (store/db.py), while others wait for it.
BATCH: Final = 8


class Scheduler:
    """Starts the runs of schedules.

    Args:
        holder: this process's name in the lease table, for people.
    """

    def __init__(self, db: Database, starter: Runs, holder: str) -> None:
        self._db = db
        self._runs = starter
        self._holder = holder

    async def run(self, stop: Stop) -> None:
        """Fire what is due, every :data:`POLL_S` seconds, until asked to stop."""
        while not stop.requested:
            try:
                await self.fire_due(stop)
            except DomainError as error:
                log.warning("look_failed", error=repr(error))
            with anyio.move_on_after(POLL_S):
                await stop.wait()

    async def fire_due(self, stop: Stop | None = None) -> int:
        """Fire everything that is due now, and return how many claims that took."""
        count = 0
        while not (stop and stop.requested) and (claimed := await self._claim()):
            async with anyio.create_task_group() as group:
                for lease in claimed:
                    group.start_soon(self._fire, lease)
            count += len(claimed)
        return count

    async def _claim(self) -> list[Lease]:
        """Claim a batch; writes only if there is something."""
        if not await self._db.read(self._is_due):
            return []
        return await self._db.write(self._take)

    def _is_due(self, tx: Tx) -> bool:
        now_us = self._now_us()
        ready_us = leases.next_ready_us(tx, QUEUE)
        return (ready_us is not None and ready_us <= now_us) or leases.has_expired(
            tx, QUEUE, now_us
        )

    def _take(self, tx: Tx) -> list[Lease]:
        now_us, ttl_us = self._now_us(), round(LEASE_S * 1_000_000)
        leases.reap(tx, QUEUE, now_us)
        taken: list[Lease] = []
        while len(taken) < BATCH:
            lease = leases.claim(tx, QUEUE, self._holder, now_us, ttl_us)
            if lease is None:
                break
            taken.append(lease)
        return taken

    async def _fire(self, lease: Lease) -> None:
        """Act for a claimed deployment; whatever fails leaves the claim to lapse."""
        try:
            await self._runs.attempt(self._db, partial(self._act, lease))
        except (LostLease, Unavailable) as error:
            log.info("fire_left", deployment=lease.key, error=repr(error))
        except Exception as error:
            log.error("fire_failed", deployment=lease.key, error=repr(error), exc_info=error)

    def _act(self, lease: Lease, tx: Tx, texts: Texts, error: RunError | None) -> None:
        """Do what is due for a deployment, and give the claim back."""
        leases.check(tx, QUEUE, lease.key, lease.epoch)
        now_us = self._now_us()
        found = _look(tx, lease.key)
        if found is None:
            leases.drop(tx, QUEUE, lease.key)
            return
        if found.next_us is None:
            # Paused, archived, or without a schedule by now.
            leases.finish(tx, lease, now_us)
            return
        plan, error = _plan(found, found.next_us, now_us, error)
        if plan.missed:
            log.warning("runs_missed", deployment=lease.key, since=_text(plan.missed.nominal_us))
        ran_us, following = None, plan.next
        if plan.run and not runs.ran(tx, lease.key, plan.run.nominal_us):
            if not _has_agent(tx, found):
                deployments.archive(tx, self._actor(found), lease.key)
                return
            self._run(tx, found, plan.run, texts, error)
            ran_us = now_us
            if error and PAUSES[error.type]:
                reason = {"type": "error", "error": {"type": error.type}}
                deployments.pause(tx, self._actor(found), lease.key, reason)
                following = None
        next_us = None if following is None else following.nominal_us
        deployments.advance(tx, found, next_us, ran_us)
        if following is None:
            leases.finish(tx, lease, now_us)
        else:
            leases.postpone(tx, lease, now_us, following.at_us)

    def _run(
        self, tx: Tx, found: Deployment, fire: Fire, texts: Texts, error: RunError | None
    ) -> None:
        resource = found.resource
        itself = Principal(CredentialKind.API_KEY, SCHEDULE, resource.workspace_id)
        if error is None:
            self._runs.start(tx, itself, found, fire.nominal_us, texts)
        else:
            self._runs.fail(tx, itself, found, fire.nominal_us, error)

    def _actor(self, found: Deployment) -> Actor:
        return Actor(self._runs.clock, self._runs.ids, found.resource.workspace_id, SCHEDULE)

    def _now_us(self) -> int:
        return to_micros(self._runs.clock.now())


def _look(tx: Tx, deployment_id: str) -> Deployment | None:
    workspace_id = tx.scalar(
        select(resources.c.workspace_id).where(resources.c.id == deployment_id)
    )
    return None if workspace_id is None else deployments.get(tx, workspace_id, deployment_id)


def _plan(
    found: Deployment, pending_us: int, now_us: int, error: RunError | None
) -> tuple[Plan, RunError | None]:
    try:
        table = found.timetable()
    except ValueError as unknown:
        # The database was moved to a machine that knows fewer zones.
        return Plan(Fire(pending_us, now_us), None), RunError("unknown_error", str(unknown))
    assert table is not None, "a time stands there only with a schedule"
    return table.plan(pending_us, now_us), error


def _has_agent(tx: Tx, found: Deployment) -> bool:
    """Tell whether the agent is there and not archived (contract-2 R224, R225)."""
    try:
        agent = service.get(tx, found.resource.workspace_id, AGENT, found.body["agent"]["id"])
    except NotFound:
        return False
    return agent.archived_us is None


def _text(at_us: int) -> str:
    return rfc3339(from_micros(at_us))
