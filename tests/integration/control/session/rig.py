"""The real store, journal and runner on SQLite; only the model and the MCP servers are doubles."""

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import insert, select, update

from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.jobs import Reaper
from intramuros.control.session.hold import Desk
from intramuros.control.session.intake import Intake
from intramuros.control.session.journal import Journal
from intramuros.control.session.perform import Performer
from intramuros.control.session.runner import Runner, RunnerSettings
from intramuros.control.session.state import State, initial, load
from intramuros.control.session.work import WorkQueue
from intramuros.control.store import events, tables
from intramuros.control.store.db import Database
from intramuros.control.store.leases import TURNS
from intramuros.control.store.notify import Hub, session_topic
from intramuros.control.store.records import Record
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import SystemClock
from intramuros.protocol.events import INBOUND
from tests.engines import database_url
from tests.fakes.effects import ScriptedConnector, ScriptedModel, ScriptedWeb
from tests.fakes.loop import WEB

WORKSPACE = "wrkspc_1"
PRINCIPAL = Principal(CredentialKind.API_KEY, "apikey_1", WORKSPACE)


class Rig:
    """A server's inside over one database file."""

    def __init__(
        self, file: Path | str, *, settings: RunnerSettings | None = None, fresh: bool = True
    ) -> None:
        self.clock = SystemClock()
        self.ids = IdFactory(self.clock, os.urandom)
        self.db = Database.open(database_url(file))
        if fresh:
            tables.metadata.create_all(self.db.engine)
        self.hub = Hub()
        work = WorkQueue(self.db, self.hub, self.clock, self.ids)
        self.journal = Journal(self.clock, self.ids, self.hub, work)
        self.reaper = Reaper(self.db, self.hub, self.clock, work, rand=lambda: 0.0)
        self.desk = Desk(self.db, self.journal, self.clock, served=WEB)
        self.model = ScriptedModel()
        self.connector = ScriptedConnector()
        self.web = ScriptedWeb()
        performer = Performer(self.model, self.connector, self.hub, web=self.web)
        self.runner = Runner(self.desk, performer, self.ids, "test", settings)
        self.intake = Intake(self.db, self.journal)
        self.intake.serve(self.runner)

    async def create(self, agent: Mapping[str, Any], *, session_id: str = "sesn_1") -> str:
        """Add a session, and what it hangs on when that is missing."""

        def work(tx: Any) -> None:
            if tx.scalar(select(tables.workspaces.c.id)) is None:
                tx.execute(insert(tables.workspaces).values(id=WORKSPACE, name="W", created_us=1))
                for resource_id, kind in (("agent_1", "agent"), ("env_1", "environment")):
                    tx.execute(
                        insert(tables.resources).values(
                            id=resource_id,
                            kind=kind,
                            workspace_id=WORKSPACE,
                            version=1,
                            body={},
                            created_us=1,
                            updated_us=1,
                        )
                    )
            crewed = agent.get("multiagent") is not None
            state = initial(f"sthr_{session_id}", self_hosted=True, crewed=crewed)
            tx.execute(
                insert(tables.sessions).values(
                    id=session_id,
                    workspace_id=WORKSPACE,
                    environment_id="env_1",
                    environment_kind="self_hosted",
                    agent_id="agent_1",
                    agent_version=1,
                    agent=dict(agent),
                    metadata={},
                    resources=[],
                    vault_ids=[],
                    status="idle",
                    state=state.dump(),
                    last_seq=0,
                    created_us=1,
                    updated_us=1,
                )
            )

        await self.db.write(work)
        return session_id

    async def send(self, session_id: str, *inputs: Mapping[str, object]) -> list[Record]:
        """Take a client's events as the API does."""
        inbound = [INBOUND.validate_python(item) for item in inputs]
        return await self.intake.accept(PRINCIPAL, session_id, inbound)

    async def say(self, session_id: str, text: str = "hello") -> None:
        content = [{"type": "text", "text": text}]
        await self.send(session_id, {"type": "user.message", "content": content})

    async def log(self, session_id: str) -> list[Record]:
        return await self.db.read(lambda tx: events.read(tx, session_id))

    async def state(self, session_id: str) -> State:
        dumped = await self.db.read(
            lambda tx: tx.scalar(
                select(tables.sessions.c.state).where(tables.sessions.c.id == session_id)
            )
        )
        return load(dumped)

    async def lease(self, session_id: str) -> Any:
        """The session's row in the queue of turns."""
        wanted = (tables.leases.c.queue == TURNS, tables.leases.c.key == session_id)
        return await self.db.read(lambda tx: tx.execute(select(tables.leases).where(*wanted)).one())

    async def usurp(self, session_id: str, **values: object) -> None:
        """Claim the session as another process would, or leave it as the values say."""
        wanted = (tables.leases.c.queue == TURNS, tables.leases.c.key == session_id)
        epoch = tables.leases.c.epoch + 1
        await self.db.write(
            lambda tx: tx.execute(
                update(tables.leases).where(*wanted).values(epoch=epoch, **values)
            )
        )

    async def until(self, session_id: str, wanted: Callable[[State], bool]) -> State:
        """Wait until the stored state is as wanted, ten seconds at most."""
        with (
            anyio.fail_after(60),
            self.hub.subscribe(session_topic(session_id), whispers=False) as hints,
        ):
            while not wanted(state := await self.state(session_id)):
                await hints.wait(0.1)
                hints.clear()
            return state

    async def idle(self, session_id: str, stop: str = "end_turn") -> State:
        return await self.until(
            session_id, lambda state: state.stop == stop and not state.queued and not state.due
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stop]:
        """Run the loop for the length of the block."""
        stop = Stop()
        async with anyio.create_task_group() as group:
            group.start_soon(self.runner.run, stop)
            group.start_soon(self.reaper.run, stop)
            try:
                yield stop
            finally:
                stop.request()
                group.cancel_scope.cancel()


def types(records: Sequence[Record]) -> list[str]:
    """The public types, in order."""
    return [record.type for record in records if not record.internal and not record.queued]
