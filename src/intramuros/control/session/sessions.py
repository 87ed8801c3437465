"""Sessions: create, read, change, list, archive, delete. Threads are views of the same row.

Each function runs inside the caller's transaction; what happens to a session is an event that the
journal writes in that same transaction.
"""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, bindparam, insert, select, update

from intramuros.control.catalog import (
    agents,
    allowances,
    behind,
    geography,
    rosters,
    service,
    skills,
    vaults,
)
from intramuros.control.catalog.kinds import ENVIRONMENT
from intramuros.control.catalog.service import Resource
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import Principal
from intramuros.control.model.catalogue import Catalogue, shipped_catalogue
from intramuros.control.session import (
    attachments,
    budget,
    listing,
    mounts,
    repositories,
    threads,
    uploads,
    workflow,
)
from intramuros.control.session.calls import CallKind
from intramuros.control.session.drafts import failure
from intramuros.control.session.journal import Held, Journal, refuse_dreaming
from intramuros.control.session.phase import Status
from intramuros.control.session.removal import Removal
from intramuros.control.session.state import initial
from intramuros.control.session.threads import ThreadRow
from intramuros.control.session.work import WorkQueue
from intramuros.control.store import events, repository_tokens, session_skills
from intramuros.control.store.db import Tx
from intramuros.control.store.notify import Hub
from intramuros.control.store.prepared import Prepared
from intramuros.control.store.records import Draft, primary_thread_id
from intramuros.control.store.repository_tokens import Tokens
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock, to_micros
from intramuros.protocol.resources.agents import AgentOverrides
from intramuros.protocol.resources.base import merge_metadata
from intramuros.protocol.resources.budgets import BudgetLimit
from intramuros.protocol.resources.mounts import FileParam
from intramuros.protocol.resources.sessions import SessionCreate, SessionUpdate
from intramuros.protocol.work import Item

_BUSY: Final = frozenset({Status.RUNNING, Status.RESCHEDULING})

SessionRow = Row[Any]

_HERE: Final = (sessions.c.id == bindparam("of_id"), sessions.c.workspace_id == bindparam("here"))
_ONE: Final = Prepared(select(sessions).where(*_HERE))
_SHOWN: Final = Prepared(select(*listing.SHOWN).where(*_HERE))
_INSERT: Final = Prepared(insert(sessions))


@dataclass(frozen=True)
class Stock:
    """What sessions are made with: where tokens of repositories lie, and what models take."""

    tokens: Tokens
    models: Catalogue | None = None


class Sessions:
    """What callers may do with sessions."""

    def __init__(
        self,
        clock: Clock,
        ids: IdFactory,
        hub: Hub,
        journal: Journal,
        work: WorkQueue,
        stock: Stock,
    ) -> None:
        self._clock = clock
        self._ids = ids
        self._journal = journal
        self._work = work
        self.removal = Removal(clock, ids, hub, journal, work)
        self._models = stock.models
        self.tokens = stock.tokens

    def create(
        self,
        tx: Tx,
        principal: Principal,
        request: SessionCreate,
        deployment_id: str | None = None,
    ) -> SessionRow:
        """Create a session, with its initial events if any, all or nothing.

        Args:
            deployment_id: whose run creates it, if one does (contract-2 R235).

        Raises:
            NotFound: no such agent, environment or vault here.
            InvalidRequest: one of them is archived, or something is asked for that this server
                does not have.
        """
        vault_ids = vaults.attach(tx, principal.workspace_id, request.vault_ids or ())
        found = service.get(tx, principal.workspace_id, ENVIRONMENT, request.environment_id)
        if found.archived_us is not None:
            raise InvalidRequest(f"environment {found.id!r} is archived")
        agent = agents.resolve(tx, principal.workspace_id, request.agent, self._models)
        geography.check(tx, principal.workspace_id, agent["model"])
        if request.budget is not None:
            self._check_prices(agent)
        crew = rosters.members(agent["multiagent"])
        told = skills.pin_all(tx, principal.workspace_id, [agent, *crew])
        session_id, kind = self._ids.new("sesn"), str(found.body["config"]["type"])
        mounted = mounts.mount(tx, self._actor(principal), found, session_id, request.resources)
        if told:
            repositories.check_beside_skills(mounted)
        state = initial(
            primary_thread_id(session_id),
            self_hosted=kind == "self_hosted",
            crewed=agent["multiagent"] is not None,
        )
        now_us = to_micros(self._clock.now())
        row = {
            "id": session_id,
            "workspace_id": principal.workspace_id,
            "environment_id": found.id,
            "environment_kind": kind,
            "agent_id": agent["id"],
            "agent_version": agent["version"],
            "agent": agent,
            "title": request.title,
            "metadata": request.metadata or {},
            "resources": mounted,
            "vault_ids": vault_ids,
            "deployment_id": deployment_id,
            "steered_by": behind.first_marks(principal, deployment_id),
            "status": state.status.value,
            "state": state.dump(),
            "last_seq": 0,
            "created_us": now_us,
            "updated_us": now_us,
        }
        tx.later(_INSERT, row)
        self._audit(
            tx,
            "session.create",
            principal,
            session_id,
            {"agent_id": agent["id"], "version": agent["version"], "environment_id": found.id},
        )
        attachments.record(tx, session_id, now_us, mounted)
        session_skills.attach(tx, session_id, told)
        if request.budget is not None:
            held = self._journal.hold(tx, session_id)
            self._journal.append(tx, held, [budget.opening(request.budget)])
        self._report_kept_out(tx, session_id, found, vault_ids)
        checkouts = repositories.record(
            tx, self.tokens, session_id, mounted, request.resources or ()
        )
        if kind == "self_hosted" or checkouts:
            self._work.ensure(tx, found.id, session_id)
        if request.initial_events:
            self._journal.accept(tx, principal, session_id, request.initial_events)
        return self.look(tx, principal, session_id)

    def _check_prices(self, agent: dict[str, Any]) -> None:
        known = self._models or shipped_catalogue()
        for model, speed in budget.models_of(agent):
            budget.check_model(model, known.price(model, speed))

    def _report_kept_out(
        self, tx: Tx, session_id: str, environment: Resource, vault_ids: list[str]
    ) -> None:
        """Say in the log which variables stay unset, or unused for some hosts (R074, Q12)."""
        if not vault_ids:
            return
        held = self._journal.hold(tx, session_id)
        config = environment.body["config"]
        kept = vaults.kept_out(tx, environment.workspace_id, held.row.vault_ids, config)
        drafts = []
        for credential, hosts in kept:
            name = credential.body["auth"]["secret_name"]
            why = (
                f"{name} stays unset: nothing injects secrets into self-hosted sandboxes"
                if config["type"] == "self_hosted"
                else f"the environment does not let {name} reach {', '.join(hosts)}"
            )
            ids = {"credential_id": credential.id, "vault_id": credential.parent_id}
            drafts.append(failure("credential_host_unreachable_error", why, "retrying", **ids))
        if drafts:
            self._journal.append(tx, held, drafts)

    def look(self, tx: Tx, principal: Principal, session_id: str) -> SessionRow:
        """Return the columns of a session's row that answers show (``listing.SHOWN``).

        Raises:
            NotFound: as for :meth:`get`.
        """
        return self._reach(tx, _SHOWN, principal, session_id)

    def get(self, tx: Tx, principal: Principal, session_id: str) -> SessionRow:
        """Return a session's row.

        Raises:
            NotFound: no such session for this caller (AMB 43, 44).
        """
        return self._reach(tx, _ONE, principal, session_id)

    def _reach(
        self, tx: Tx, statement: Prepared, principal: Principal, session_id: str
    ) -> SessionRow:
        row = tx.run(statement, {"of_id": session_id, "here": principal.workspace_id}).first()
        if row is None:
            raise NotFound(f"no session {session_id!r}")
        principal.require_session(session_id, row.environment_id)
        return row

    def update(
        self, tx: Tx, principal: Principal, session_id: str, request: SessionUpdate
    ) -> SessionRow:
        """Change a session and say so in its log, if anything changed (contract 10.16-10.20).

        Raises:
            NotFound: no such session.
            InvalidRequest: archived, or not something that may change.
            Conflict: the agent is to change while the session runs.
            PermissionDenied: the workspace may not use the agent's model.
        """
        held = self._hold(tx, principal, session_id)
        if held.row.archived_us is not None:
            raise InvalidRequest(f"session {session_id!r} is archived and cannot change")
        if request.sent("vault_ids"):
            raise InvalidRequest("vault_ids: cannot change after creation")
        changes = _changes(held.row, request, self._models)
        if "agent" in changes:
            allowances.check_agent(tx, principal.workspace_id, changes["agent"], self._models)
        told = {name: value for name, value in changes.items() if name != "metadata" or value}
        if request.sent("budget"):
            told |= self._new_budget(held, request.budget)
        if not changes and not told:
            return held.row
        if changes:
            behind.change(tx, held.row, principal, changes)
        self._journal.append(tx, held, [Draft("session.updated", told)])
        fields: dict[str, object] = {"fields": sorted({*changes, *told})}
        self._audit(tx, "session.update", principal, session_id, fields)
        return self.get(tx, principal, session_id)

    def _new_budget(self, held: Held, wanted: BudgetLimit | None) -> dict[str, Any]:
        """Return what a budget update changes (contract 12.2 to 12.5)."""
        if held.state.status is Status.TERMINATED:
            raise InvalidRequest("budget: the session is terminated, so its budget cannot change")
        changed, shown = budget.change(held.state, wanted, to_micros(self._clock.now()))
        if not changed:
            return {}
        if wanted is not None:
            self._check_prices(held.row.agent)
        return {"budget": shown}

    def archive(self, tx: Tx, principal: Principal, session_id: str) -> SessionRow:
        """End a session for good and keep its history (contract 10.22, AMB 33).

        Raises:
            NotFound: no such session.
            Conflict: it is running; interrupt it first.
        """
        held = self._hold(tx, principal, session_id)
        if held.row.archived_us is not None:
            return held.row
        _refuse_busy(held.row, "archived")
        tx.execute(
            update(sessions)
            .where(sessions.c.id == session_id)
            .values(archived_us=max(to_micros(self._clock.now()), held.row.updated_us))
        )
        repository_tokens.wipe_session(tx, session_id)
        self._audit(tx, "session.archive", principal, session_id, {})
        if held.state.status is not Status.TERMINATED:
            thread = {
                "session_thread_id": held.state.thread_id,
                "agent_name": held.row.agent["name"],
            }
            self._journal.append(
                tx,
                held,
                [
                    *workflow.closing(held.state),
                    Draft("session.thread_status_terminated", thread),
                    Draft("session.status_terminated"),
                ],
            )
        return self.get(tx, principal, session_id)

    def delete(self, tx: Tx, principal: Principal, session_id: str) -> None:
        """Remove a session and its log (contract 10.23).

        Raises:
            NotFound: no such session.
            Conflict: it is running; interrupt it first.
        """
        row = self._hold(tx, principal, session_id).row
        _refuse_busy(row, "deleted")
        self._audit(tx, "session.delete", principal, session_id, {"events": row.last_seq})
        self.removal.remove(tx, self._actor(principal), row)

    def add_file(
        self, tx: Tx, principal: Principal, session_id: str, param: FileParam
    ) -> dict[str, Any]:
        """Mount one more file into a session (contract 11.2).

        Raises:
            NotFound: no such session or file here.
            InvalidRequest: the session has ended, or takes no files, or not there.
        """
        row = self._hold(tx, principal, session_id).row
        shown = uploads.add(tx, self._actor(principal), row, param)
        fields = {"id": shown["id"], "file_id": shown["file_id"]}
        self._audit(tx, "session.resource.add", principal, session_id, fields)
        return shown

    def remove_file(
        self, tx: Tx, principal: Principal, session_id: str, resource_id: str
    ) -> list[str]:
        """Take a file out of a session; returns the keys of blobs that may go.

        Raises:
            NotFound: no such session or resource here.
            InvalidRequest: the session has ended.
        """
        row = self._hold(tx, principal, session_id).row
        keys = uploads.remove(tx, self._actor(principal), row, resource_id)
        self._audit(tx, "session.resource.remove", principal, session_id, {"id": resource_id})
        return keys

    def rotate_token(
        self, tx: Tx, principal: Principal, session_id: str, resource_id: str, token: str
    ) -> dict[str, Any]:
        """Give a repository another token and return the resource (contract 11.8).

        Raises:
            NotFound: no such session or resource here.
            InvalidRequest: the session has ended, or the resource has no token.
        """
        row = self._hold(tx, principal, session_id).row
        uploads.check_open(row)
        kind = uploads.get(row.resources, resource_id)["type"]
        if kind != repositories.KIND:
            raise InvalidRequest(
                f"authorization_token: {resource_id!r} is a {kind}, which has no token"
            )
        self.tokens.put(tx, resource_id, token, session_id=session_id)
        actor = self._actor(principal)
        renewed = [repositories.renewed(shown, resource_id, actor) for shown in row.resources]
        uploads.store(tx, actor, session_id, renewed)
        self._audit(tx, "session.resource.update", principal, session_id, {"id": resource_id})
        return uploads.get(renewed, resource_id)

    def stop_work(
        self, tx: Tx, principal: Principal, environment_id: str, work_id: str, *, force: bool
    ) -> Item:
        """Stop a work item.

        A worker that gives up a session unasked, though a call was made while it served, leaves it
        to the next one: it may have been leaving when the call came. A call that was there before
        the worker came stays for a client to see, or two such workers would play ball with it
        (AMB 15, contract 9.42).

        Raises:
            NotFound: no such item in this environment.
            Conflict: it is stopped already.
        """
        item, unasked = self._work.stop(tx, principal, environment_id, work_id, force=force)
        if unasked and self._left_calls(tx, item):
            self._work.ensure(tx, environment_id, item.session_id)
        return item

    def _left_calls(self, tx: Tx, item: Item) -> bool:
        try:
            state = self._journal.hold(tx, item.session_id).state
        except NotFound:
            return False
        since_us = item.acknowledged_us or 0
        uses = (
            events.by_id(tx, item.session_id, call.id)
            for call in state.open_calls
            if call.kind is CallKind.SANDBOX
        )
        return any(use is not None and use.at_us > since_us for use in uses)

    def find(
        self, tx: Tx, workspace_id: str, query: listing.Query
    ) -> tuple[list[SessionRow], bool]:
        """Return a page of sessions in the order asked for, and whether more lie beyond it.

        *Beyond* is behind the page, or before it when reading backwards.
        """
        ascending = (query.order == "asc") != query.backwards
        rows = listing.find(tx, workspace_id, query, ascending=ascending)
        shown = rows[: query.limit]
        return shown[::-1] if query.backwards else shown, len(rows) > query.limit

    def archive_thread(
        self, tx: Tx, principal: Principal, session_id: str, thread_id: str
    ) -> ThreadRow:
        """End a child thread for good, which makes room for another (contract 19.6, 19.7).

        Raises:
            NotFound: no such session or child.
            Conflict: it is running; interrupt it first.
        """
        held = self._hold(tx, principal, session_id)
        row = threads.get(tx, session_id, thread_id)
        if row.archived_us is None:
            now_us = max(to_micros(self._clock.now()), held.row.updated_us)
            drafts = threads.archive(tx, held.state, row, now_us)
            self._audit(tx, "session.thread_archive", principal, session_id, {"thread": thread_id})
            if drafts:
                self._journal.append(tx, held, drafts)
        return threads.get(tx, session_id, thread_id)

    def _hold(self, tx: Tx, principal: Principal, session_id: str) -> Held:
        self.get(tx, principal, session_id)
        held = self._journal.hold(tx, session_id)
        refuse_dreaming(held.row)
        return held

    def _actor(self, principal: Principal) -> Actor:
        return Actor(
            self._clock,
            self._ids,
            principal.workspace_id,
            principal.credential_id,
            service_account_id=principal.service_account_id,
        )

    def _audit(
        self, tx: Tx, kind: str, principal: Principal, session_id: str, fields: dict[str, object]
    ) -> None:
        audit.record(
            tx,
            self._clock,
            kind,
            workspace_id=principal.workspace_id,
            session_id=session_id,
            fields={"by": principal.credential_id, **fields},
        )


def _refuse_busy(row: SessionRow, what: str) -> None:
    if row.status in _BUSY:
        raise Conflict(
            f"session {row.id!r} is {row.status} and cannot be {what}; "
            "send user.interrupt and wait until it is idle"
        )


def _changes(row: SessionRow, request: SessionUpdate, known: Catalogue | None) -> dict[str, Any]:
    """Return the columns that really change, with their new values."""
    wanted: dict[str, Any] = {}
    if request.sent("title"):
        wanted["title"] = request.title
    if request.sent("metadata"):
        try:
            wanted["metadata"] = merge_metadata(row.metadata, request.metadata)
        except ValueError as error:
            raise InvalidRequest(f"metadata: {error}") from error
    if request.agent is not None:
        sent = {name: getattr(request.agent, name) for name in request.agent.model_fields_set}
        overrides = AgentOverrides(type="agent_with_overrides", id=row.agent_id, **sent)
        wanted["agent"] = rosters.renewed(agents.override(row.agent, overrides, known))
    changes = {name: value for name, value in wanted.items() if value != row._mapping[name]}
    if "agent" in changes and row.status != Status.IDLE:
        raise Conflict(f"agent: session {row.id!r} is {row.status}; wait until it is idle")
    return changes
