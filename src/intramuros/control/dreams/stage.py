"""The session of a dream: opened, given a part, interrupted, closed.

It is an ordinary session with an agent and an environment of the workspace that are made for it:
archived, so that nobody starts sessions with them, and hidden from lists. It has no sandbox. Each
function runs in the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import delete, insert, select, update

from intramuros.control.catalog import agents, environments, models, service
from intramuros.control.catalog.kinds import AGENT, ENVIRONMENT, Kind
from intramuros.control.catalog.service import Resource
from intramuros.control.dreams import prompts
from intramuros.control.dreams.plan import Dream
from intramuros.control.identity import audit
from intramuros.control.identity.actor import Actor
from intramuros.control.model.catalogue import Catalogue
from intramuros.control.session.journal import Held, Journal
from intramuros.control.session.phase import Phase
from intramuros.control.session.state import initial
from intramuros.control.store import events
from intramuros.control.store.db import Tx
from intramuros.control.store.dream_tables import dream_homes
from intramuros.control.store.notify import Hub
from intramuros.control.store.records import Draft, primary_thread_id
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock, to_micros
from intramuros.protocol.resources.agents import AgentCreate, ModelConfig
from intramuros.protocol.resources.dreams import ENVIRONMENT_KIND
from intramuros.protocol.resources.environments import Cloud, EnvironmentCreate, Limited

_ENVIRONMENT: Final = EnvironmentCreate(
    name=prompts.AGENT_NAME,
    description="Of the sessions that run dreams, which have no sandbox; the server made it.",
    config=Cloud(type="cloud", networking=Limited(type="limited")),
)


@dataclass(frozen=True)
class Stage:
    """Where dreams play."""

    clock: Clock
    ids: IdFactory
    hub: Hub
    journal: Journal
    models: Catalogue

    def now_us(self) -> int:
        """Return the time in microseconds since the epoch."""
        return to_micros(self.clock.now())

    def actor(self, dream: Dream) -> Actor:
        """Return the dream as the one who acts."""
        return Actor(self.clock, self.ids, dream.workspace_id, dream.id)

    def open(self, tx: Tx, dream: Dream) -> None:
        """Make the dream's session, which rests until it is given something."""
        agent, environment_id = self._home(tx, dream)
        state = initial(primary_thread_id(dream.session_id), self_hosted=False)
        now_us = self.now_us()
        tx.execute(
            insert(sessions).values(
                id=dream.session_id,
                workspace_id=dream.workspace_id,
                environment_id=environment_id,
                environment_kind=ENVIRONMENT_KIND,
                agent_id=agent["id"],
                agent_version=agent["version"],
                agent=agent,
                title=f"Dream {dream.id}",
                metadata={"dream_id": dream.id},
                resources=[],
                vault_ids=[],
                status=state.status.value,
                state=state.dump(),
                last_seq=0,
                created_us=now_us,
                updated_us=now_us,
            )
        )
        fields = {"agent_id": agent["id"], "environment_id": environment_id}
        self._audit(tx, "session.create", dream, fields)

    def tell(self, tx: Tx, dream: Dream, text: str, *, afresh: bool) -> None:
        """Give the model a message.

        Args:
            afresh: forget what was said before; the log tells clients of it.
        """
        held = self.journal.hold(tx, dream.session_id)
        drafts = []
        if afresh:
            drafts.append(Draft("agent.thread_context_compacted", private={"summary": []}))
        body = {"content": [{"type": "text", "text": text}]}
        drafts.append(Draft("user.message", body, queued=True))
        self.journal.append(tx, held, drafts)

    def answer(self, tx: Tx, held: Held, answers: Sequence[tuple[str, str, bool]]) -> None:
        """Answer calls: each with the id of its event, the text, and whether it failed."""
        drafts = [
            Draft(
                "user.custom_tool_result",
                {
                    "custom_tool_use_id": use_id,
                    "content": [{"type": "text", "text": text}],
                    "is_error": failed,
                },
            )
            for use_id, text, failed in answers
        ]
        self.journal.append(tx, held, drafts)

    def halt(self, tx: Tx, dream: Dream) -> None:
        """Interrupt the session, if there is one that does something."""
        held = self._held(tx, dream)
        if held is None or held.state.phase is Phase.TERMINATED:
            return
        if held.state.phase is Phase.IDLE and not held.state.due:
            return
        if any(item.type == "user.interrupt" for item in held.state.queued):
            return
        self.journal.append(tx, held, [Draft("user.interrupt", queued=True)])

    def close(self, tx: Tx, dream: Dream) -> None:
        """Archive the session, which rests (R248)."""
        held = self._held(tx, dream)
        if held is None or held.row.archived_us is not None:
            return
        self._audit(tx, "session.archive", dream, {})
        if held.state.phase is not Phase.TERMINATED:
            thread = {
                "session_thread_id": held.state.thread_id,
                "agent_name": held.row.agent["name"],
            }
            self.journal.append(
                tx,
                held,
                [
                    Draft("session.thread_status_terminated", thread),
                    Draft("session.status_terminated"),
                ],
            )
        archived_us = max(self.now_us(), held.row.updated_us)
        own = sessions.c.id == dream.session_id
        tx.execute(update(sessions).where(own).values(archived_us=archived_us))

    def audit_end(self, tx: Tx, dream: Dream, fields: dict[str, object]) -> None:
        """Record how a dream ended."""
        self._audit(tx, "dream.end", dream, {"id": dream.id, **fields})

    def complaint(self, tx: Tx, dream: Dream) -> str | None:
        """Return what the session last reported as an error, or None."""
        query = events.Query(order="desc", types=("session.error",), limit=1)
        found, _ = events.page(tx, dream.session_id, query)
        if not found:
            return None
        error: Any = found[0].body["error"]
        return str(error["message"])

    def _held(self, tx: Tx, dream: Dream) -> Held | None:
        try:
            return self.journal.hold(tx, dream.session_id)
        except NotFound:
            return None

    def _home(self, tx: Tx, dream: Dream) -> tuple[dict[str, Any], str]:
        """Return the agent's snapshot and the environment for a session, made where missing."""
        body = agents.configure(
            AgentCreate.model_validate(
                {
                    "name": prompts.AGENT_NAME,
                    "description": prompts.AGENT_DESCRIPTION,
                    "model": dream.model["id"],
                    "system": prompts.system(None),
                    "tools": list(prompts.TOOLS),
                }
            ),
            self.models,
        )
        agent, environment = self._find_home(tx, dream)
        actor = replace(self.actor(dream), by="dreams")
        if agent is None or environment is None:
            agent = agent or service.archive(tx, actor, service.create(tx, actor, AGENT, body))
            made = environments.create(tx, actor, _ENVIRONMENT)
            environment = service.archive(tx, actor, made)
            self._keep_home(tx, dream.workspace_id, agent, environment)
        # A newer server may tell its dreams something else; the model is each dream's own.
        agent = service.change(tx, actor, AGENT, agent, {**body, "model": agent.body["model"]})
        own = {
            **body,
            "model": models.settle(self.models, ModelConfig(id=dream.model["id"])),
            "system": prompts.system(dream.instructions),
        }
        return agents.snapshot(agent, own), environment.id

    def _find_home(self, tx: Tx, dream: Dream) -> tuple[Resource | None, Resource | None]:
        home = tx.execute(
            select(dream_homes).where(dream_homes.c.workspace_id == dream.workspace_id)
        ).first()
        if home is None:
            return None, None
        return (
            _find(tx, dream.workspace_id, AGENT, home.agent_id),
            _find(tx, dream.workspace_id, ENVIRONMENT, home.environment_id),
        )

    def _keep_home(self, tx: Tx, workspace_id: str, agent: Resource, place: Resource) -> None:
        tx.execute(delete(dream_homes).where(dream_homes.c.workspace_id == workspace_id))
        tx.execute(
            insert(dream_homes).values(
                workspace_id=workspace_id, agent_id=agent.id, environment_id=place.id
            )
        )

    def _audit(self, tx: Tx, kind: str, dream: Dream, fields: dict[str, object]) -> None:
        audit.record(
            tx,
            self.clock,
            kind,
            workspace_id=dream.workspace_id,
            session_id=dream.session_id,
            fields={"by": dream.id, **fields},
        )


def _find(tx: Tx, workspace_id: str, kind: Kind, resource_id: str) -> Resource | None:
    """Return a resource, or None when somebody deleted it."""
    try:
        return service.get(tx, workspace_id, kind, resource_id)
    except NotFound:
        return None
