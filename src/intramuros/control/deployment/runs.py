"""Runs: each attempt to start a session of a deployment, and what came of it.

A run that succeeds is written in the transaction that creates its session. One that fails is
written in a transaction of its own, after whatever there was of a session has been undone.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import ColumnElement, Row, bindparam, insert, select

from intramuros.control.deployment import causes, deployments, mounted
from intramuros.control.deployment.causes import CannotStart, RunError
from intramuros.control.deployment.configure import rubric_files, with_texts
from intramuros.control.deployment.deployments import Deployment
from intramuros.control.identity import audit
from intramuros.control.identity.principal import Principal
from intramuros.control.session.journal import Journal
from intramuros.control.session.sessions import Sessions
from intramuros.control.store import outbox
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.deployment_tables import deployment_runs
from intramuros.control.store.keyset import beyond
from intramuros.kernel.errors import IntramurosError, InvalidRequest, NotFound, Unavailable
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, from_micros, rfc3339, to_micros
from intramuros.protocol.events import (
    INBOUND,
    FileRubric,
    Inbound,
    TextRubric,
    UserDefineOutcome,
)
from intramuros.protocol.resources.deployments import TriggerType
from intramuros.protocol.resources.sessions import SessionCreate

log = logger("deployments")

DEFAULT_PAGE: Final = 20
MAX_PAGE: Final = 1000

RunRow = Row[Any]
T = TypeVar("T")
R = TypeVar("R", covariant=True)

# A deployment whose rubrics change between all of these is not started.
_TRIES: Final = 3


@dataclass(frozen=True)
class Query:
    """Which runs to list; from (inclusive) until (exclusive) in microseconds."""

    limit: int
    after: tuple[int, str] | None = None
    deployment_id: str | None = None
    has_error: bool | None = None
    trigger_type: TriggerType | None = None
    from_us: int | None = None
    until_us: int | None = None


class Unread(IntramurosError):
    """A run needs the texts of files, which no transaction can wait for."""

    def __init__(self, workspace_id: str, events: Sequence[Inbound]) -> None:
        super().__init__("rubrics are not read yet")
        self.workspace_id = workspace_id
        self.events = events


Texts = Mapping[str, str]
Resolve = Callable[[str, Sequence[Inbound]], Awaitable[Sequence[Inbound]]]


class Act(Protocol[R]):
    """A transaction that starts a run, or writes why it cannot start."""

    def __call__(self, tx: Tx, texts: Texts, error: RunError | None) -> R:
        """Act.

        Args:
            texts: of the rubrics that have been read so far, by file id.
            error: why the run cannot start, as an earlier try found.
        """
        ...


@dataclass(frozen=True)
class Runs:
    """Starts sessions of deployments.

    Args:
        resolve: gives events with the texts of the rubrics that lie in files.
    """

    clock: Clock
    ids: IdFactory
    sessions: Sessions
    journal: Journal
    resolve: Resolve

    async def by_hand(self, db: Database, caller: Principal, deployment_id: str) -> RunRow:
        """Run a deployment now, paused or not (contract-2 R233); a failure is a run too (Q16).

        Raises:
            NotFound: no such deployment here.
            InvalidRequest: it is archived.
            Unavailable: nothing happened; try again.
        """

        def act(tx: Tx, texts: Texts, error: RunError | None) -> RunRow:
            found = _active(tx, caller, deployment_id)
            if error is not None:
                return self.fail(tx, caller, found, None, error)
            return self.start(tx, caller, found, None, texts)

        return await self.attempt(db, act)

    async def attempt(self, db: Database, act: Act[T]) -> T:
        """Carry out a transaction that starts a run, reading files between tries.

        Raises:
            Unavailable: the database is away, or what is to be read changes all the time.
        """
        texts: dict[str, str] = {}
        try:
            for _ in range(_TRIES):
                try:
                    return await db.write(partial(act, texts=texts, error=None))
                except Unread as unread:
                    texts |= await self._read(unread)
        except CannotStart as refused:
            return await db.write(partial(act, texts=texts, error=refused.error))
        raise Unavailable("the deployment changes while it is started; try again")

    async def _read(self, unread: Unread) -> dict[str, str]:
        with _told():
            resolved = await self.resolve(unread.workspace_id, unread.events)
        named = [event for event in unread.events if isinstance(event, UserDefineOutcome)]
        read = [event for event in resolved if isinstance(event, UserDefineOutcome)]
        return {
            before.rubric.file_id: after.rubric.content
            for before, after in zip(named, read, strict=True)
            if isinstance(before.rubric, FileRubric) and isinstance(after.rubric, TextRubric)
        }

    def start(
        self,
        tx: Tx,
        caller: Principal,
        deployment: Deployment,
        scheduled_us: int | None,
        texts: Texts = MappingProxyType({}),
    ) -> RunRow:
        """Create a session with the deployment's events, and the run that says so.

        Args:
            scheduled_us: the nominal time of a scheduled run.
            texts: of rubrics that lie in files, by file id.

        Raises:
            CannotStart: it cannot be; undo this transaction and write :meth:`fail`.
            Unread: a text is missing; undo this transaction and come back with it.
            Unavailable: nothing was decided; try again.
        """
        body = deployment.body
        with _told():
            causes.check(tx, caller.workspace_id, body)
            events = [INBOUND.validate_python(event) for event in body["initial_events"]]
        if any(file_id not in texts for file_id in rubric_files(events)):
            raise Unread(caller.workspace_id, events)
        with _told():
            request = SessionCreate.model_validate(
                {
                    "agent": {"type": "agent", **body["agent"]},
                    **{name: body[name] for name in _COPIED},
                    "resources": mounted.opened(tx, self.sessions.tokens, body["resources"]),
                }
            )
            session = self.sessions.create(tx, caller, request, deployment.resource.id)
            self.journal.accept(tx, caller, session.id, with_texts(events, texts))
        return self._write(tx, caller, deployment, scheduled_us, {"session_id": session.id})

    def fail(
        self,
        tx: Tx,
        caller: Principal,
        deployment: Deployment,
        scheduled_us: int | None,
        error: RunError,
    ) -> RunRow:
        """Write that a run could not start its session."""
        outcome = {"error_type": error.type, "error_message": error.message}
        return self._write(tx, caller, deployment, scheduled_us, outcome)

    def _write(
        self,
        tx: Tx,
        caller: Principal,
        deployment: Deployment,
        scheduled_us: int | None,
        outcome: dict[str, str],
    ) -> RunRow:
        run_id, agent = self.ids.new("drun"), deployment.body["agent"]
        told = {name: value for name, value in outcome.items() if name != "error_message"}
        if scheduled_us is not None:
            told["scheduled_at"] = rfc3339(from_micros(scheduled_us))
        audit.record(
            tx,
            self.clock,
            "deployment.run",
            workspace_id=caller.workspace_id,
            fields={
                "id": deployment.resource.id,
                "run_id": run_id,
                "by": caller.credential_id,
                **told,
            },
        )
        tx.execute(
            insert(deployment_runs).values(
                id=run_id,
                workspace_id=caller.workspace_id,
                deployment_id=deployment.resource.id,
                agent_id=agent["id"],
                agent_version=agent["version"],
                trigger_type="manual" if scheduled_us is None else "schedule",
                scheduled_us=scheduled_us,
                failed="error_type" in outcome,
                created_us=to_micros(self.clock.now()),
                **outcome,
            )
        )
        if scheduled_us is not None:
            self._tell(tx, caller.workspace_id, run_id, failed="error_type" in outcome)
        return get(tx, caller.workspace_id, run_id)

    def _tell(self, tx: Tx, workspace_id: str, run_id: str, *, failed: bool) -> None:
        """Tell webhooks; runs by hand are not told of (contract-2 R234, R265)."""
        for what in ("started", "failed" if failed else "succeeded"):
            kind = f"deployment_run.{what}"
            outbox.tell(tx, self.clock, kind, workspace_id=workspace_id, resource_id=run_id)


@contextmanager
def _told() -> Iterator[None]:
    """Tell what fails inside as the reason of a run."""
    try:
        yield
    except Exception as error:
        cause = causes.of(error)
        if cause.type == "unknown_error":
            log.error("run_failed", error=repr(error), exc_info=error)
        raise CannotStart(cause) from error


def get(tx: Tx, workspace_id: str, run_id: str) -> RunRow:
    """Return a run.

    Raises:
        NotFound: no such run here.
    """
    row = tx.execute(_ONE, {"of_id": run_id, "of_workspace": workspace_id}).first()
    if row is None:
        raise NotFound(f"no deployment run {run_id[:80]!r}")
    return row


def ran(tx: Tx, deployment_id: str, scheduled_us: int) -> bool:
    """Tell whether a nominal time had its run already (contract-2 R221)."""
    wanted = {"of_deployment": deployment_id, "of_scheduled": scheduled_us}
    return tx.scalar(_RAN, wanted) is not None


def find(tx: Tx, workspace_id: str, query: Query) -> tuple[list[RunRow], bool]:
    """Return a page of runs, newest first, and whether there is more."""
    # A deployment has one workspace: an expression keeps the planner from reading all of it.
    of = deployment_runs.c.workspace_id
    rows = tx.execute(
        select(deployment_runs)
        .where((of if query.deployment_id is None else of + "") == workspace_id, *_filters(query))
        .order_by(*(key.desc() for key in _KEYS))
        .limit(query.limit + 1)
    ).all()
    return list(rows[: query.limit]), len(rows) > query.limit


def _active(tx: Tx, caller: Principal, deployment_id: str) -> Deployment:
    found = deployments.get(tx, caller.workspace_id, deployment_id)
    if found.resource.archived_us is not None:
        raise InvalidRequest(f"deployment {deployment_id!r} is archived and cannot run")
    return found


def _filters(query: Query) -> list[ColumnElement[bool]]:
    table = deployment_runs.c
    wanted: list[ColumnElement[bool]] = []
    if query.deployment_id is not None:
        wanted.append(table.deployment_id == query.deployment_id)
    if query.has_error is not None:
        wanted.append(table.failed == query.has_error)
    if query.trigger_type is not None:
        wanted.append(table.trigger_type == query.trigger_type)
    if query.from_us is not None:
        wanted.append(table.created_us >= query.from_us)
    if query.after is not None:
        # It lies within the bounds, so it is the closer one on its side.
        wanted.append(beyond(_KEYS, query.after, ascending=False))
    elif query.until_us is not None:
        wanted.append(table.created_us < query.until_us)
    return wanted


_KEYS: Final = (deployment_runs.c.created_us, deployment_runs.c.id)
# What a session takes from its deployment as it is.
_COPIED: Final = ("environment_id", "vault_ids", "budget")
_ONE: Final = select(deployment_runs).where(
    deployment_runs.c.id == bindparam("of_id"),
    deployment_runs.c.workspace_id == bindparam("of_workspace"),
)
_RAN: Final = select(deployment_runs.c.id).where(
    deployment_runs.c.deployment_id == bindparam("of_deployment"),
    deployment_runs.c.scheduled_us == bindparam("of_scheduled"),
)
