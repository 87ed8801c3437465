"""One workspace with an agent, an environment and what serves sessions, over a real database."""

import itertools
import os
from dataclasses import dataclass, field

from intramuros.control.catalog import agents, environments
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.session.journal import Journal
from intramuros.control.session.sessions import Sessions, Stock
from intramuros.control.session.work import WorkQueue
from intramuros.control.store import events, leases
from intramuros.control.store import work as rows
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.notify import Hub
from intramuros.control.store.records import Draft, Record
from intramuros.control.store.repository_tokens import Tokens
from intramuros.control.store.secrets import Sealer
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock, to_micros
from intramuros.protocol.events import INBOUND
from intramuros.protocol.resources.agents import AgentCreate
from intramuros.protocol.resources.environments import EnvironmentCreate
from intramuros.protocol.resources.sessions import SessionCreate
from intramuros.protocol.work import Item

NO_USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
}


@dataclass
class World:
    """Acts in one transaction that stays open."""

    tx: Tx
    clock: ManualClock
    ids: IdFactory
    workspace_id: str
    db: Database | None = None
    hub: Hub = field(default_factory=Hub)

    def __post_init__(self) -> None:
        self.work = WorkQueue(self.db, self.hub, self.clock, self.ids)
        self.journal = Journal(self.clock, self.ids, self.hub, self.work)
        self.tokens = Tokens(Sealer(bytes(32), os.urandom), os.urandom)
        self.sessions = Sessions(
            self.clock, self.ids, self.hub, self.journal, self.work, Stock(self.tokens)
        )
        actor = Actor(self.clock, self.ids, self.workspace_id, "test")
        tools = [{"type": "agent_toolset_20260401"}]
        self.agent_id = agents.create(
            self.tx,
            actor,
            AgentCreate.model_validate({"name": "A", "model": "scripted/x", "tools": tools}),
        ).id
        self.environment_ids = {
            kind: environments.create(
                self.tx,
                actor,
                EnvironmentCreate.model_validate({"name": kind, "config": {"type": kind}}),
            ).id
            for kind in ("self_hosted", "cloud")
        }
        self._epochs = itertools.count(1)

    @property
    def environment_id(self) -> str:
        return self.environment_ids["self_hosted"]

    @property
    def now_us(self) -> int:
        return to_micros(self.clock.now())

    @property
    def api(self) -> Principal:
        return Principal(CredentialKind.API_KEY, "apikey_1", self.workspace_id)

    @property
    def worker(self) -> Principal:
        return Principal(
            CredentialKind.ENVIRONMENT_KEY,
            "envkey_1",
            self.workspace_id,
            environment_id=self.environment_id,
        )

    def create(self, environment: str = "self_hosted", **body: object) -> str:
        """Create a session and return its id."""
        request = SessionCreate.model_validate(
            {
                "agent": self.agent_id,
                "environment_id": self.environment_ids[environment],
                **body,
            }
        )
        return self.sessions.create(self.tx, self.api, request).id

    def send(
        self, session_id: str, *events: dict[str, object], by: Principal | None = None
    ) -> list[Record]:
        """Send events as a client does."""
        inbound = [INBOUND.validate_python(event) for event in events]
        return self.journal.accept(self.tx, by or self.api, session_id, inbound)

    def say(self, session_id: str, text: str = "hello") -> Record:
        return self.send(
            session_id, {"type": "user.message", "content": [{"type": "text", "text": text}]}
        )[0]

    def loop(self, session_id: str, *drafts: Draft) -> list[Record]:
        """Append rows as the loop does, under a turn lease of its own."""
        leases.offer(self.tx, leases.TURNS, session_id, self.now_us)
        lease = leases.claim(self.tx, leases.TURNS, "loop", self.now_us, 1_000_000)
        assert lease is not None
        assert lease.key == session_id
        held = self.journal.held(self.tx, session_id, lease.epoch)
        written = self.journal.record(self.tx, held, drafts)
        leases.finish(self.tx, lease, self.now_us)
        return written

    def run(self, session_id: str, *uses: Draft) -> list[Record]:
        """Let the loop consume what waits and make one model request; return the tool uses.

        The turn ends, or requires action when there are uses.
        """
        state = self.journal.hold(self.tx, session_id).state
        waiting = [
            Draft(r.type, r.body, id=r.id)
            for item in state.queued
            if (r := find(self.tx, session_id, item.id)) is not None
        ]
        start = Draft("span.model_request_start", id=self.ids.new("sevt"), private={"epoch": 1})
        end = {"model_request_start_id": start.id, "model_usage": NO_USAGE}
        opened = self.loop(
            session_id,
            Draft("session.status_running"),
            Draft("session.thread_status_running", thread(state.thread_id)),
            *waiting,
            start,
            *uses,
            Draft("span.model_request_end", end),
        )
        made = [record for record in opened if record.type.endswith("tool_use")]
        blocking = self.journal.hold(self.tx, session_id).state.blocking
        reason: dict[str, object] = {"type": "end_turn"}
        if blocking:
            reason = {"type": "requires_action", "event_ids": list(blocking)}
        self.loop(
            session_id,
            Draft("session.thread_status_idle", {**thread(state.thread_id), "stop_reason": reason}),
            Draft("session.status_idle", {"stop_reason": reason}),
        )
        return made

    def items(self, session_id: str) -> list[Item]:
        """Return the session's work items that are not stopped."""
        return rows.of_session(self.tx, self.environment_id, session_id)

    def serve(self, session_id: str) -> Item:
        """Claim, acknowledge and beat the session's item as a worker does."""
        claimed = rows.claim(self.tx, self.environment_id, "w", self.now_us, 0)
        assert claimed is not None
        assert claimed.session_id == session_id
        self.work.acknowledge(self.tx, self.worker, self.environment_id, claimed.id)
        item, _ = self.work.beat(
            self.tx, self.environment_id, claimed.id, expected="NO_HEARTBEAT", desired_ttl_s=None
        )
        return item

    def commit(self) -> None:
        """Run what waits for the commit, as the database does."""
        hooks = list(self.tx.hooks)
        self.tx.hooks.clear()
        for hook in hooks:
            hook()


def thread(thread_id: str) -> dict[str, object]:
    return {"session_thread_id": thread_id, "agent_name": "A"}


def use(permission: str = "allow", type: str = "agent.tool_use", name: str = "bash") -> Draft:
    body: dict[str, object] = {"name": name, "input": {}}
    if type != "agent.custom_tool_use":
        body["evaluated_permission"] = permission
    return Draft(type, body)


def find(tx: Tx, session_id: str, event_id: str) -> Record | None:
    return events.by_id(tx, session_id, event_id)
