"""Wake-ups between the processes of one PostgreSQL database, by LISTEN and NOTIFY.

After a commit its process tells the others the topics that have changed; they look at the tables.
A process may die between the two, a connection may break, and a pooler may swallow it all: every
waiter also looks by itself from time to time. Topics that change often are told once for each time
that the sender gets to it, in a transaction of its own: a NOTIFY inside the writers' transactions
would have them commit one after the other.

By the same two connections go *voices*: what changes too often to be written down and may be lost,
such as previews. They speak only while another process is heard, on a channel that older releases
do not listen to, and sealed (store/correspondence.py): whoever may connect to the database hears a
channel and may speak on it.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import anyio
import psycopg

from intramuros.control.store.correspondence import LONGEST_BYTES, Correspondence, Strange
from intramuros.control.store.notify import Hub
from intramuros.kernel.errors import DomainError
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger

log = logger("replicas")

CHANNEL: Final = "intramuros"
VOICES: Final = "intramuros_voices"
# A notification has less than 8000 bytes.
PAYLOAD_BYTES: Final = 7_000
# Topics that wait to be told; beyond that everybody looks at everything.
TOPICS_LIMIT: Final = 10_000
AGAIN_S: Final = 1.0
# Of another database it is logged so often, in seconds, besides the second above.
ELSEWHERE_S: Final = 60.0
# Which cluster and which database of it somebody is connected to.
IDENTITY: Final = (
    "SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || oid FROM pg_database"
    " WHERE datname = current_database()"
)
CONNECT_TIMEOUT_S: Final = 5
# So often does a process say that it is there, in seconds, and believe that of others for so long.
RENEW_S: Final = 10.0
ALONE_S: Final = 35.0
# So often is it logged that somebody says what none of us would.
WONDER_S: Final = 60.0
# For this transaction alone: the session may be a pooler's, and the next who has it a writer.
_SPEAK: Final = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"
_EVERYTHING: Final = "*"
# What processes say to each other beside the voices: that they are there, and know nothing yet.
_HERE: Final = "here"
_NEW: Final = "new"
# What reading something raises that none of us has said.
_STRANGE: Final = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError)


class Voice(Protocol):
    """Something that processes tell each other. Never waits; what it tells may be lost."""

    @property
    def kind(self) -> str:
        """What it is called among processes."""
        ...

    def attach(self, soon: Callable[[float], None]) -> None:
        """Have ``soon`` called with the seconds after which :meth:`say` should be."""
        ...

    def say(self) -> Iterable[Sequence[object]]:
        """Return and forget what is to be told now: JSON, each of at most 5,800 bytes."""
        ...

    def hear(self, body: Sequence[Any]) -> None:
        """Take in what another process told.

        Raises:
            ValueError, TypeError, LookupError: it is nothing that one of us says.
        """
        ...

    def renew(self, *, anew: bool) -> None:
        """Tell again what others may have missed.

        Args:
            anew: somebody may have heard nothing yet.
        """
        ...

    def lost(self) -> None:
        """Know that nothing could be told for a while."""
        ...


class Relay:
    """Tells other processes what changes here, and has this one look at what changed there.

    Args:
        url: the database, as libpq reads it.
        post: seals what voices say.
        voices: what else they tell each other.
        home: asks which database the server works on (:data:`IDENTITY`), if the URL is another
            than the server's own; elsewhere nobody is heard.
    """

    def __init__(
        self,
        url: str,
        hub: Hub,
        post: Correspondence,
        voices: Sequence[Voice] = (),
        *,
        home: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self._url = url
        self._home = home
        self._hub = hub
        self._voices = {voice.kind: voice for voice in voices}
        self._post = post
        self._me = post.me
        self._changed: dict[str, None] = {}
        self._wanted = anyio.Event()
        self._due_s = 0.0  # when to speak, by the loop's clock
        self._renew_s = 0.0
        self._new = True  # others are to be told that
        self._anew = True  # others may have heard nothing of what there is
        self._strange = 0
        self._wonder_s = 0.0  # when to log it again
        self._company_s = 0.0  # until then somebody else is believed to be there
        self.listening = anyio.Event()

    async def run(self, stop: Stop) -> None:
        """Pass on what there is until asked to stop."""
        self._hub.pass_on(self._tell)
        for voice in self._voices.values():
            voice.attach(self._soon)
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep, "listen", self._listen)
            group.start_soon(self._keep, "speak", self._speak)
            await stop.wait()
            group.cancel_scope.cancel()

    def _tell(self, topic: str) -> None:
        if len(self._changed) >= TOPICS_LIMIT:
            self._changed = {_EVERYTHING: None}
        self._changed[topic] = None
        self._soon(0.0)

    def _soon(self, after_s: float) -> None:
        due_s = anyio.current_time() + after_s
        if due_s < self._due_s:
            self._due_s = due_s
            self._wanted.set()

    def _renew(self) -> None:
        """Say again who is here and what it wants, as soon as may be."""
        self._renew_s, self._anew = 0.0, True
        self._soon(0.0)

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
                    if not pooled and await self._at_home(connection):
                        await work(connection)
                finally:
                    with anyio.CancelScope(shield=True):
                        await connection.close()
            except (psycopg.Error, DomainError) as error:
                log.warning("replicas_unreachable", what=what, error=type(error).__name__)
                pooled = False
            if pooled:
                log.info("replicas_behind_pooler", what=what)
                await anyio.sleep_forever()
            await anyio.sleep(AGAIN_S)

    async def _at_home(self, connection: "psycopg.AsyncConnection[Any]") -> bool:
        """Tell whether a connection leads to the database that the server works on."""
        if self._home is None:
            return True
        home = await self._home()
        cursor = await connection.execute(IDENTITY)
        row = await cursor.fetchone()
        if row is not None and row[0] == home:
            return True
        log.error(
            "replicas_elsewhere",
            fix="name the same database with --database-direct-url, past the pooler",
        )
        await anyio.sleep(ELSEWHERE_S)
        return False

    async def _listen(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        await connection.execute(f"LISTEN {CHANNEL}")
        await connection.execute(f"LISTEN {VOICES}")
        # What was told before is lost.
        self._hub.hear_all()
        self._new = True
        self._renew()
        self.listening.set()
        async for notification in connection.notifies():
            if notification.channel == VOICES:
                self._hear_voice(notification.payload)
            else:
                self._hear(notification.payload)

    def _hear_voice(self, payload: str) -> None:
        try:
            said = self._post.open(payload)
            if said is None:
                return
            kind, *body = json.loads(said)
            alone, self._company_s = self._alone(), anyio.current_time() + ALONE_S
            if alone or kind == _NEW:
                self._renew()
            if kind in self._voices:
                self._voices[kind].hear(body)
        except _STRANGE as error:
            self._wonder(payload, error)

    def _wonder(self, payload: str, error: Exception) -> None:
        """Log what none of us says, but not each: whoever may connect may say it all the time."""
        self._strange += 1
        now_s = anyio.current_time()
        if now_s >= self._wonder_s:
            self._wonder_s = now_s + WONDER_S
            reason = str(error) if isinstance(error, Strange) else type(error).__name__
            log.warning("replicas_strange", bytes=len(payload), reason=reason, count=self._strange)

    def _alone(self) -> bool:
        return anyio.current_time() > self._company_s

    def _hear(self, payload: str) -> None:
        try:
            sender, *topics = json.loads(payload)
        except _STRANGE as error:
            self._wonder(payload, error)
            return
        if sender == self._me:
            return
        for topic in topics:
            if topic == _EVERYTHING:
                self._hub.hear_all()
            else:
                self._hub.hear(str(topic))

    async def _speak(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        for voice in self._voices.values():
            voice.lost()
        self._new = True
        self._renew()
        while True:
            await self._until_due()
            # Both are taken now: what was said before a change is told before it.
            voiced = self._voiced()
            topics, self._changed = list(self._changed), {}
            try:
                for payload in voiced:
                    await connection.execute(_SPEAK, (VOICES, payload))
                for payload in self._payloads(topics) if topics else ():
                    await connection.execute(_SPEAK, (CHANNEL, payload))
            except psycopg.Error:
                for topic in topics:
                    self._tell(topic)
                raise

    async def _until_due(self) -> None:
        """Wait until something is to be said; what becomes due from now on is waited for anew."""
        while (left_s := self._due_s - anyio.current_time()) > 0:
            self._wanted = anyio.Event()
            with anyio.move_on_after(left_s):
                await self._wanted.wait()
        self._due_s = anyio.current_time() + RENEW_S

    def _voiced(self) -> list[str]:
        """Return what the voices say now; nothing but that we are here while we are alone."""
        payloads: list[str] = []
        if anyio.current_time() >= self._renew_s:
            self._renew_s = anyio.current_time() + RENEW_S
            payloads += self._sealed([_NEW if self._new else _HERE])
            self._new = False
            for voice in self._voices.values():
                voice.renew(anew=self._anew)
            self._anew = False
        for voice in self._voices.values():
            said = list(voice.say())
            for body in () if self._alone() else said:
                payloads += self._sealed([voice.kind, *body])
        return payloads

    def _sealed(self, body: Sequence[object]) -> list[str]:
        said = _json(body).encode()
        if len(said) > LONGEST_BYTES:
            log.error("replicas_too_long", kind=body[0], bytes=len(said))
            return []
        return [self._post.seal(said)]

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
