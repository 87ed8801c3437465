"""Delivering with everything real but the network: what is posted is kept, and answered at will."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from sqlalchemy import insert

from intramuros.control.identity.actor import Actor
from intramuros.control.store import outbox
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.notify import WEBHOOK_TOPIC, Hub
from intramuros.control.store.secrets import Sealer
from intramuros.control.store.tables import metadata, workspaces
from intramuros.control.webhooks.addresses import Policy
from intramuros.control.webhooks.desk import Desk, Patience
from intramuros.control.webhooks.endpoints import Endpoints
from intramuros.control.webhooks.post import Message, Outcome, Post, Result
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock
from intramuros.protocol.resources.webhooks import WorkspaceEndpointCreate
from tests.engines import database_url

WORKSPACE = "wrkspc_test"
DELIVERED = Result(Outcome.DELIVERED, "200")
FAILED = Result(Outcome.FAILED, "500")

Reply = Callable[[Message], Awaitable[Result]]


class Postman(Post):
    """Keeps what it is to send; ``reply`` says what comes of it."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.reply: Reply | None = None

    async def send(self, message: Message) -> Result:
        self.sent.append(message)
        return DELIVERED if self.reply is None else await self.reply(message)

    def about(self, url: str) -> list[str]:
        return [message.event_id for message in self.sent if message.url == url]


class Office:
    """A database with one workspace, and what delivering needs."""

    def __init__(self, directory: Path, clock: Clock, patience: Patience) -> None:
        self.clock = clock
        self.ids = IdFactory(clock, os.urandom)
        self.db = Database.open(database_url(directory / "test.db"))
        metadata.create_all(self.db.engine)
        self.hub = Hub()
        self.postman = Postman()
        self.keeper = Endpoints(Sealer(bytes(32), os.urandom), os.urandom, Policy())
        self.desk = Desk(self.db, clock, self.hub, self.keeper, self.postman, patience, "org-uuid")
        self.actor = Actor(clock, self.ids, WORKSPACE, "test")

    async def open(self) -> None:
        await self.db.write(
            lambda tx: tx.execute(
                insert(workspaces).values(id=WORKSPACE, name="Test", created_us=0)
            )
        )

    async def endpoint(self, url: str = "https://hooks.example/in", *kinds: str) -> str:
        body = {"url": url, "enabled_events": list(kinds) or ["vault.created"]}
        request = WorkspaceEndpointCreate.model_validate(body)
        shown, _ = await self.db.write(
            lambda tx: self.keeper.create(tx, self.actor, WORKSPACE, request)
        )
        return str(shown["id"])

    async def tell(self, resource_id: str = "vlt_1", kind: str = "vault.created") -> int:
        heard = await self.db.write(lambda tx: self._tell(tx, resource_id, kind))
        self.hub.hint(WEBHOOK_TOPIC)
        return heard

    def _tell(self, tx: Tx, resource_id: str, kind: str) -> int:
        return outbox.tell(
            tx,
            self.clock,
            kind,
            workspace_id=WORKSPACE,
            resource_id=resource_id,
            source=self.ids.random(8).hex(),
        )
