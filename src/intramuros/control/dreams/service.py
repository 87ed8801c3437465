"""Dreams as callers see them: create, read, list, cancel, archive."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select

from intramuros.control.catalog import allowances, models, service
from intramuros.control.catalog.kinds import MEMORY_STORE
from intramuros.control.dreams import rows
from intramuros.control.dreams.plan import Dream, Progress
from intramuros.control.dreams.rows import NO_USAGE, Query
from intramuros.control.dreams.stage import Stage
from intramuros.control.identity import audit
from intramuros.control.identity.principal import Principal, Scope
from intramuros.control.model.catalogue import Catalogue
from intramuros.control.session.state import State
from intramuros.control.store import leases
from intramuros.control.store.db import Tx
from intramuros.control.store.notify import DREAM_TOPIC
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound, RateLimited
from intramuros.kernel.timing import from_micros, rfc3339
from intramuros.protocol.resources.agents import ModelConfig
from intramuros.protocol.resources.dreams import DreamCreate, UpdateExisting

# Dreams of one workspace that wait or run: more are not being read by anybody.
MAX_BUSY: Final = 100
_RETRY_AFTER_S: Final = 60


@dataclass(frozen=True)
class Dreams:
    """What callers may do with dreams; every method runs in the caller's transaction."""

    stage: Stage
    models: Catalogue

    def create(self, tx: Tx, caller: Principal, request: DreamCreate) -> Dream:
        """Store a new dream, which starts by itself (R241).

        Raises:
            NotFound: no such store or session here.
            InvalidRequest: the store is archived, or another one is to be written.
            PermissionDenied: the caller may not write memory stores (R240).
            Conflict: another dream that writes into this store has not stopped (R240).
            RateLimited: too many dreams of this workspace wait or run.
        """
        store = service.get(tx, caller.workspace_id, MEMORY_STORE, request.store_id)
        service.check_active(MEMORY_STORE, store)
        _check_sessions(tx, caller.workspace_id, request.session_ids)
        updates = isinstance(request.output_behavior, UpdateExisting)
        if isinstance(request.output_behavior, UpdateExisting):
            self._check_update(tx, caller, request.output_behavior, store.id)
        # Refuses a speed or a model that cannot be before anybody waits for it.
        settled = models.settle(self.models, ModelConfig(id=request.model_id, speed="standard"))
        allowances.check(tx, caller.workspace_id, [settled["id"]], self.models)
        if rows.busy(tx, caller.workspace_id) >= MAX_BUSY:
            raise RateLimited(
                f"{MAX_BUSY} dreams of this workspace wait or run already",
                retry_after_s=_RETRY_AFTER_S,
            )
        now_us = self.stage.now_us()
        dream = Dream(
            id=self.stage.ids.new("drm"),
            workspace_id=caller.workspace_id,
            status="pending",
            inputs=tuple(_shown_input(sent.type, request) for sent in request.inputs),
            store_id=store.id,
            session_ids=tuple(request.session_ids),
            model={"id": settled["id"], "speed": "standard"},
            instructions=request.instructions,
            updates=updates,
            output_id=None,
            session_id=self.stage.ids.new("sesn"),
            error=None,
            usage=NO_USAGE,
            progress=Progress(),
            created_by=caller.credential_id,
            created_us=now_us,
        )
        fields = {"store_id": store.id, "sessions": len(dream.session_ids), "updates": updates}
        self._audit(tx, "dream.create", caller, dream, fields)
        rows.add(tx, dream)
        self._wake(tx, dream)
        return dream

    def get(self, tx: Tx, caller: Principal, dream_id: str) -> Dream:
        """Return a dream.

        Raises:
            NotFound: no such dream here.
        """
        found = rows.get(tx, caller.workspace_id, dream_id)
        if found is None:
            raise NotFound(f"no dream {dream_id[:80]!r}")
        return found

    def find(self, tx: Tx, caller: Principal, query: Query) -> tuple[list[Dream], bool]:
        """Return a page of dreams, newest first, and whether there is more."""
        return rows.find(tx, caller.workspace_id, query)

    def cancel(self, tx: Tx, caller: Principal, dream_id: str) -> Dream:
        """End a dream at once; what its session has begun is interrupted (R244).

        Raises:
            NotFound: no such dream here.
            InvalidRequest: it has completed or failed.
        """
        dream = self.get(tx, caller, dream_id)
        if dream.status == "canceled":
            return dream
        if dream.ended:
            raise InvalidRequest(f"dream {dream.id!r} has {dream.status} and cannot be canceled")
        self._audit(tx, "dream.cancel", caller, dream, {})
        rows.change(tx, dream, status="canceled", ended_us=self.stage.now_us())
        self.stage.halt(tx, dream)
        self._wake(tx, dream)
        return self.get(tx, caller, dream_id)

    def archive(self, tx: Tx, caller: Principal, dream_id: str) -> Dream:
        """Hide an ended dream from lists; a second time changes nothing (R245).

        Raises:
            NotFound: no such dream here.
            InvalidRequest: it has not ended.
        """
        dream = self.get(tx, caller, dream_id)
        if dream.archived_us is not None:
            return dream
        if not dream.ended:
            raise InvalidRequest(
                f"dream {dream.id!r} is {dream.status} and cannot be archived; cancel it first"
            )
        self._audit(tx, "dream.archive", caller, dream, {})
        rows.change(tx, dream, archived_us=self.stage.now_us())
        return self.get(tx, caller, dream_id)

    def present(self, tx: Tx, found: Collection[Dream]) -> list[dict[str, Any]]:
        """Return dreams as answers show them, with what their sessions have used by now."""
        states = rows.states(tx, [dream.session_id for dream in found])
        return [_present(dream, states.get(dream.session_id)) for dream in found]

    def _check_update(
        self, tx: Tx, caller: Principal, wanted: UpdateExisting, store_id: str
    ) -> None:
        # The scope that writing a memory takes; nobody writes one by way of a dream without it.
        caller.require_scope(Scope.DEVELOPER)
        if wanted.memory_store_id != store_id:
            raise InvalidRequest(
                "output_behavior.memory_store_id: must be the memory store among the inputs"
            )
        other = rows.updating(tx, store_id)
        if other is not None:
            raise Conflict(
                f"dream {other!r} writes into memory store {store_id!r} and has not stopped"
            )

    def _wake(self, tx: Tx, dream: Dream) -> None:
        leases.offer(tx, leases.DREAMS, dream.session_id, self.stage.now_us())
        tx.after_commit(lambda: self.stage.hub.hint(DREAM_TOPIC))

    def _audit(
        self, tx: Tx, kind: str, caller: Principal, dream: Dream, fields: dict[str, Any]
    ) -> None:
        audit.record(
            tx,
            self.stage.clock,
            kind,
            workspace_id=dream.workspace_id,
            fields={"id": dream.id, "by": caller.credential_id, **fields},
        )


def usage_of(dream: Dream, state: State | None) -> dict[str, int]:
    """Return the tokens that a dream has used by now; a deleted session's stay as they were."""
    if state is None:
        return dict(dream.usage)
    return {name: int(getattr(state.usage, name)) for name in NO_USAGE}


def _present(dream: Dream, state: State | None) -> dict[str, Any]:
    output = {"type": "memory_store", "memory_store_id": dream.output_id}
    behavior = {"type": "create_new"}
    if dream.updates:
        behavior = {"type": "update_existing", "memory_store_id": dream.store_id}
    return {
        "id": dream.id,
        "type": "dream",
        "status": dream.status,
        "inputs": list(dream.inputs),
        "instructions": dream.instructions,
        "model": dict(dream.model),
        "output_behavior": behavior,
        "outputs": [] if dream.output_id is None else [output],
        "session_id": None if dream.started_us is None else dream.session_id,
        "error": dream.error,
        "usage": usage_of(dream, state),
        "created_at": _time(dream.created_us),
        "ended_at": _time(dream.ended_us),
        "archived_at": _time(dream.archived_us),
    }


def _shown_input(type: str, request: DreamCreate) -> dict[str, Any]:
    if type == "memory_store":
        return {"type": type, "memory_store_id": request.store_id}
    return {"type": type, "session_ids": request.session_ids}


def _check_sessions(tx: Tx, workspace_id: str, wanted: Collection[str]) -> None:
    there = set(
        tx.execute(
            select(sessions.c.id).where(
                sessions.c.id.in_(list(wanted)), sessions.c.workspace_id == workspace_id
            )
        ).scalars()
    )
    for session_id in wanted:
        if session_id not in there:
            raise NotFound(f"no session {session_id[:80]!r}")


def _time(at_us: int | None) -> str | None:
    return None if at_us is None else rfc3339(from_micros(at_us))
