"""Hints and whispers between the tasks of a process. Nothing here is the truth.

A *hint* says "look at the table again"; it carries no data and may be lost, so every waiter also
looks on its own from time to time. *News* are a hint that brings the new rows along, so that many
readers of one log need not each read them again; who finds a gap looks. A *whisper* is a piece of
a preview that may be lost as a whole request: when a slow reader's buffer is full, the rest of that
request's whispers is dropped for it, so that what it has seen stays a prefix of the text (contract
18.6). So is the rest behind a gap, for whispers of other processes may be lost on their way.

What is told here is passed on to other processes on the same database, if there may be any
(store/replicas.py): they hear hints, and look; whispers they hear if somebody there wants them
(store/previews.py).

All methods run on the event loop's thread; ``Tx.after_commit`` calls its hooks there.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import anyio

from intramuros.control.store.records import Record

# Rows of news that one reader may leave unread; beyond that it looks at the table.
NEWS_LIMIT: Final = 100
# Whispers that one reader may leave unread: about two seconds of a fast model.
WHISPER_LIMIT: Final = 256
# Requests whose whispers one reader is told apart: threads of a session ask at the same time.
REQUESTS_LIMIT: Final = 64

TURN_TOPIC: Final = "turn"
WEBHOOK_TOPIC: Final = "webhook"
DREAM_TOPIC: Final = "dream"
_SESSION: Final = "session/"


def session_topic(session_id: str) -> str:
    """Return the topic of a session's log."""
    return f"{_SESSION}{session_id}"


def work_topic(environment_id: str) -> str:
    """Return the topic of an environment's work queue; it is also the queue's name."""
    return f"work/{environment_id}"


@dataclass(frozen=True)
class Whisper:
    """A piece of a preview.

    Args:
        request_seq: the log position of the ``span.model_request_start`` it belongs to.
        kind: ``agent.message`` or ``agent.thinking``, the type being previewed.
        event: the wire form of an ``event_start`` or ``event_delta`` (contract 18.3).
        at: how much of the request was whispered before: 1 for each start, and the characters.
        size: how much of it this is.
    """

    request_seq: int
    kind: str
    event: Mapping[str, object]
    at: int
    size: int = 1


@dataclass(frozen=True)
class News:
    """Rows that one transaction made durable.

    Args:
        after_seq: where the log ended before.
        last_seq: where it ends now.
        records: those in between that clients see.
    """

    after_seq: int
    last_seq: int
    records: Sequence[Record]


class Subscription:
    """One waiter on one topic; made by :meth:`Hub.subscribe`."""

    def __init__(self, *, whispers: bool, news: bool) -> None:
        self._hinted = anyio.Event()
        self._closed = False
        self._reads = news
        self._look = False  # the news alone do not tell everything
        self._news: list[News] = []
        self._rows = 0
        self._listens = whispers
        self._whispers: deque[Whisper] = deque()
        self._next: dict[int, int | None] = {}  # request → what follows; None once some is lost
        self._passed = 0  # of this request and those before it no more is heard

    @property
    def closed(self) -> bool:
        """True once the process takes no more: who serves a client should not wait again."""
        return self._closed

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a hint since the last call of :meth:`clear`.

        Returns:
            True if hinted, False when ``timeout_s`` seconds passed.
        """
        with anyio.move_on_after(timeout_s):
            await self._hinted.wait()
        return self._hinted.is_set()

    def clear(self) -> None:
        """Forget hints so far; call it *before* looking at the table, or a change is missed."""
        if self._hinted.is_set():
            self._hinted = anyio.Event()

    def take_news(self) -> list[News] | None:
        """Return and forget the news so far, oldest first; None to look at the table instead."""
        taken = None if self._look else self._news
        self._look, self._news, self._rows = False, [], 0
        return taken

    def take_whispers(self) -> list[Whisper]:
        """Return and forget the whispers so far, oldest first."""
        taken = list(self._whispers)
        self._whispers.clear()
        return taken

    def _hint(self) -> None:
        self._look = True
        self._hinted.set()

    def _tell(self, news: News) -> None:
        self._rows += len(news.records)
        if self._reads and self._rows <= NEWS_LIMIT and not self._look:
            self._news.append(news)
        else:
            self._look, self._news = True, []
        self._hinted.set()

    def _close(self) -> None:
        self._closed = self._look = True
        self._hinted.set()

    @property
    def listens(self) -> bool:
        """True for one who wants whispers."""
        return self._listens

    def _whisper(self, whisper: Whisper) -> None:
        request = whisper.request_seq
        if not self._listens or request <= self._passed:
            return
        follows = self._next.get(request, whisper.at)
        if follows is None or whisper.at < follows:
            return  # the rest of what was lost, or heard already
        if whisper.at > follows or len(self._whispers) >= WHISPER_LIMIT:
            self._next[request] = None
            return
        self._next[request] = follows + whisper.size
        if len(self._next) > REQUESTS_LIMIT:
            self._passed = min(self._next)
            del self._next[self._passed]
        self._whispers.append(whisper)
        self._hinted.set()


class Elsewhere(Protocol):
    """Takes to other processes what is whispered in this one. Never waits."""

    def whisper(self, session_id: str, whisper: Whisper) -> None:
        """Pass on a piece of a preview, if somebody elsewhere wants it."""
        ...

    def awaited(self, session_id: str) -> None:
        """Note that somebody here wants a session's previews from now on."""
        ...


class Hub:
    """Passes hints and whispers to the subscriptions of this process, and hints to others."""

    def __init__(self) -> None:
        self._elsewhere: Callable[[str], None] | None = None
        self._whisperer: Elsewhere | None = None
        self._topics: dict[str, set[Subscription]] = {}
        self._closed = False

    @contextmanager
    def subscribe(
        self, topic: str, *, whispers: bool = True, news: bool = True
    ) -> Iterator[Subscription]:
        """Subscribe from now until the block ends; without whispers and news, to hints alone."""
        subscription = Subscription(whispers=whispers, news=news)
        self._topics.setdefault(topic, set()).add(subscription)
        if self._closed:
            subscription._close()
        if whispers and self._whisperer is not None and topic.startswith(_SESSION):
            self._whisperer.awaited(topic.removeprefix(_SESSION))
        try:
            yield subscription
        finally:
            waiting = self._topics[topic]
            waiting.discard(subscription)
            if not waiting:
                del self._topics[topic]

    def pass_on(self, elsewhere: Callable[[str], None]) -> None:
        """Call ``elsewhere`` with the topic of whatever is told here from now on."""
        self._elsewhere = elsewhere

    def pass_whispers_on(self, whisperer: Elsewhere) -> None:
        """Have ``whisperer`` know of whatever is whispered or awaited here from now on."""
        self._whisperer = whisperer

    def hint(self, topic: str) -> None:
        """Tell every waiter of the topic to look again."""
        self.hear(topic)
        if self._elsewhere is not None:
            self._elsewhere(topic)

    def hear(self, topic: str) -> None:
        """Tell the waiters of this process alone."""
        for subscription in self._topics.get(topic, ()):
            subscription._hint()

    def tell(self, topic: str, news: News) -> None:
        """Hand every waiter of the topic rows that are durable."""
        for subscription in self._topics.get(topic, ()):
            subscription._tell(news)
        if self._elsewhere is not None:
            self._elsewhere(topic)

    def hear_all(self) -> None:
        """Tell every waiter of this process to look, whatever it waits for."""
        for topic in list(self._topics):
            self.hear(topic)

    def whisper(self, session_id: str, whisper: Whisper) -> None:
        """Pass a piece of a preview to whoever streams that session now.

        Send a request's whispers only after its ``span.model_request_start`` is recorded and
        before anything of its reply is.
        """
        self.overhear(session_id, whisper)
        if self._whisperer is not None:
            self._whisperer.whisper(session_id, whisper)

    def overhear(self, session_id: str, whisper: Whisper) -> None:
        """Pass a piece of a preview to the streams of this process alone."""
        for subscription in self._topics.get(session_topic(session_id), ()):
            subscription._whisper(whisper)

    def awaiting(self) -> list[str]:
        """Return the sessions whose previews somebody here wants."""
        return [
            topic.removeprefix(_SESSION)
            for topic, waiting in self._topics.items()
            if topic.startswith(_SESSION) and any(one.listens for one in waiting)
        ]

    def close(self) -> None:
        """Wake every waiter once, so that streams and held polls end when the server stops."""
        self._closed = True
        for subscriptions in self._topics.values():
            for subscription in subscriptions:
                subscription._close()

    def listeners(self, topic: str) -> int:
        """Return how many subscriptions a topic has now."""
        return len(self._topics.get(topic, ()))
