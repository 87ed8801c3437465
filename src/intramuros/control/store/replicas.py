"""Wake-ups between the processes of one PostgreSQL database, by LISTEN and NOTIFY.

After a commit its process tells the others the topics that have changed; they look at the tables.
A process may die between the two, a connection may break, and a pooler may swallow it all: every
waiter also looks by itself from time to time. Topics that change often are told once for each time
that the sender gets to it, in a transaction of its own: a NOTIFY inside the writers' transactions
would have them commit one after the other.
"""

import json
import secrets
from typing import Any, Final

import anyio
import psycopg

from intramuros.control.store.notify import Hub
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger

log = logger("replicas")

CHANNEL: Final = "intramuros"
# A notification has less than 8000 bytes.
PAYLOAD_BYTES: Final = 7_000
# Topics that wait to be told; beyond that everybody looks at everything.
TOPICS_LIMIT: Final = 10_000
AGAIN_S: Final = 1.0
CONNECT_TIMEOUT_S: Final = 5
# For this transaction alone: the session may be a pooler's, and the next who has it a writer.
_SPEAK: Final = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"
_EVERYTHING: Final = "*"


class Relay:
    """Tells other processes what changes here, and has this one look at what changed there.

    Args:
        url: the database, as libpq reads it.
    """

    def __init__(self, url: str, hub: Hub) -> None:
        self._url = url
        self._hub = hub
        self._me = secrets.token_hex(8)
        self._changed: dict[str, None] = {}
        self._wanted = anyio.Event()
        self.listening = anyio.Event()

    async def run(self, stop: Stop) -> None:
        """Pass on what there is until asked to stop."""
        self._hub.pass_on(self._tell)
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep, "listen", self._listen)
            group.start_soon(self._keep, "speak", self._speak)
            await stop.wait()
            group.cancel_scope.cancel()

    def _tell(self, topic: str) -> None:
        if len(self._changed) >= TOPICS_LIMIT:
            self._changed = {_EVERYTHING: None}
        self._changed[topic] = None
        self._wanted.set()

    async def _keep(self, what: str, work: Any) -> None:  # noqa: ANN401  one of the two below
        """Do it again and again, on a new connection whenever one is lost."""
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    self._url,
                    autocommit=True,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    application_name=f"intramuros {what}",
                    # A pooler may have no use for prepared statements.
                    prepare_threshold=None,
                )
                try:
                    pooled = await _pooled(connection)
                    if not pooled:
                        await work(connection)
                finally:
                    with anyio.CancelScope(shield=True):
                        await connection.close()
            except psycopg.Error as error:
                log.warning("replicas_unreachable", what=what, error=type(error).__name__)
                pooled = False
            if pooled:
                log.info("replicas_behind_pooler", what=what)
                await anyio.sleep_forever()
            await anyio.sleep(AGAIN_S)

    async def _listen(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        await connection.execute(f"LISTEN {CHANNEL}")
        # What was told before is lost.
        self._hub.hear_all()
        self.listening.set()
        async for notification in connection.notifies():
            self._hear(notification.payload)

    def _hear(self, payload: str) -> None:
        try:
            sender, *topics = json.loads(payload)
        except (ValueError, TypeError):
            log.warning("replicas_strange", bytes=len(payload))
            return
        if sender == self._me:
            return
        for topic in topics:
            if topic == _EVERYTHING:
                self._hub.hear_all()
            else:
                self._hub.hear(str(topic))

    async def _speak(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            topics, self._changed = list(self._changed), {}
            try:
                for payload in self._payloads(topics):
                    await connection.execute(_SPEAK, (CHANNEL, payload))
            except psycopg.Error:
                for topic in topics:
                    self._tell(topic)
                raise

    def _payloads(self, topics: list[str]) -> list[str]:
        made: list[str] = []
        batch: list[str] = [self._me]
        size = 0
        for topic in topics:
            size += len(_json(topic)) + 1
            if size > PAYLOAD_BYTES and len(batch) > 1:
                made.append(_json(batch))
                batch, size = [self._me], len(_json(topic)) + 1
            batch.append(topic)
        return [*made, _json(batch)]


async def _pooled(connection: "psycopg.AsyncConnection[Any]") -> bool:
    """Tell whether a pooler is between, which has told another process number than the server's.

    It would hand on what is told to whoever has the connection next, or to nobody.
    """
    cursor = await connection.execute("SELECT pg_backend_pid()")
    row = await cursor.fetchone()
    return row is None or row[0] != connection.info.backend_pid


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
