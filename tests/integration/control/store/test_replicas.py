"""Server processes of one database: what one is told, the others hear; work is claimed once."""

import json
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from anthropic import Anthropic
from sqlalchemy import make_url
from structlog.testing import capture_logs

from intramuros.control.store.correspondence import LONGEST_BYTES, Correspondence
from intramuros.control.store.notify import Hub, News
from intramuros.control.store.replicas import (
    CHANNEL,
    PAYLOAD_BYTES,
    TOPICS_LIMIT,
    VOICES,
    Relay,
    Voice,
)
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import SystemClock
from tests.postgres import Cluster
from tests.wire.host import Server, both
from tests.wire.site import MESSAGE, Site, until

pytestmark = pytest.mark.anyio

SCRIPTS = Path(__file__).parents[3] / "wire/scripts"


def relay_of(url: str, hub: Hub, *voices: Voice) -> Relay:
    return Relay(url, hub, post(), voices)


def post() -> Correspondence:
    return Correspondence(b"s" * 32, secrets.token_hex(16), SystemClock())


async def test_hints_and_news_of_one_are_hints_to_the_other(url: str) -> None:
    hubs, stop = (Hub(), Hub()), Stop()
    relays = [relay_of(url, hub) for hub in hubs]
    async with anyio.create_task_group() as group:
        for relay in relays:
            group.start_soon(relay.run, stop)
        with anyio.fail_after(60):
            for relay in relays:
                await relay.listening.wait()
        with hubs[0].subscribe("a") as own, hubs[1].subscribe("a") as other:
            with hubs[1].subscribe("b") as strange:
                hubs[0].hint("a")
                assert await other.wait(60)
                assert own.take_news() is None
                other.clear()
                hubs[0].tell("a", News(0, 1, ()))
                assert await other.wait(60)
                # News stay where they are: the other looks.
                assert other.take_news() is None
                assert not strange.take_whispers()
                assert not await strange.wait(0.05)
            own.clear()
            other.clear()
            # Nobody hears itself by way of the other.
            hubs[1].hint("a")
            assert await own.wait(60)
            other.clear()
            assert not await other.wait(0.05)
        stop.request()


async def test_what_breaks_is_taken_up_again_and_everybody_looks(
    url: str, cluster: Cluster
) -> None:
    hubs, stop = (Hub(), Hub()), Stop()
    relays = [relay_of(url, hub) for hub in hubs]
    async with anyio.create_task_group() as group:
        for relay in relays:
            group.start_soon(relay.run, stop)
        with anyio.fail_after(60):
            for relay in relays:
                await relay.listening.wait()
        with hubs[1].subscribe("a") as other:
            kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
            name = make_url(url).database
            await anyio.to_thread.run_sync(
                cluster.run,
                f"{kill} datname = '{name}' AND application_name LIKE 'intramuros %'",
            )
            # It looks as soon as it listens again.
            assert await other.wait(60)
            other.clear()
            hubs[0].hint("a")
            assert await other.wait(60)
        stop.request()


async def test_strange_notifications_change_nothing(url: str) -> None:
    hub, stop = Hub(), Stop()
    relay = relay_of(url, hub)
    async with anyio.create_task_group() as group:
        group.start_soon(relay.run, stop)
        with anyio.fail_after(60):
            await relay.listening.wait()
        with hub.subscribe("a") as here, capture_logs() as logs:
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
                for payload in ("", "{", "7", "{}", "[]", '["x", 7]', '["x", "b"]', '["x", "a"]'):
                    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))
            assert await here.wait(60)
        # Whoever may connect cannot fill the log.
        assert [log["event"] for log in logs].count("replicas_strange") == 1
        stop.request()


class _Heard:
    """A voice that says what it is given and keeps what it hears."""

    kind = "test"

    def __init__(self) -> None:
        self.soon: Callable[[float], None] = lambda _after_s: None
        self.to_say: list[list[object]] = []
        self.heard: list[object] = []
        self.renewed = self.lost_it = 0
        self.changed = anyio.Event()

    def attach(self, soon: Callable[[float], None]) -> None:
        self.soon = soon

    def say(self) -> list[list[object]]:
        said, self.to_say = self.to_say, []
        self.changed.set()
        return said

    def hear(self, body: Sequence[Any]) -> None:
        if body == ["strange"]:
            raise LookupError
        self.heard.append(list(body))
        self.changed.set()

    def renew(self, *, anew: bool) -> None:
        self.renewed += 1
        self.to_say.append(["again"])
        self.changed.set()

    def lost(self) -> None:
        self.lost_it += 1


async def _until(voice: _Heard, found: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not found():
            voice.changed = anyio.Event()
            await voice.changed.wait()


async def test_voices_are_heard_by_the_others_before_what_changed_after_them(url: str) -> None:
    hubs, voices, stop = (Hub(), Hub()), (_Heard(), _Heard()), Stop()
    one, two = voices
    relays = [relay_of(url, hub, voice) for hub, voice in zip(hubs, voices, strict=True)]
    told: list[str] = []

    async def eavesdrop() -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(f"LISTEN {VOICES}")
            async for notification in connection.notifies():
                told[len(told) :] = [notification.payload]

    async with anyio.create_task_group() as group:
        group.start_soon(eavesdrop)
        group.start_soon(relays[0].run, stop)
        await _until(one, lambda: one.renewed > 0)
        # Nobody is there who could hear it.
        one.to_say.append(["too early"])
        one.soon(0.0)
        await _until(one, lambda: not one.to_say)
        group.start_soon(relays[1].run, stop)
        # Each learns of the other at once, and tells again what it has told.
        for voice in voices:
            await _until(voice, lambda voice=voice: ["again"] in voice.heard)
        with hubs[1].subscribe("a") as other:
            one.to_say += [["a", 1], ["strange"], ["b"], ["x" * LONGEST_BYTES]]
            hubs[0].hint("a")
            assert await other.wait(60)
            assert [body for body in two.heard if body != ["again"]] == [["a", 1], ["b"]]
        before = one.renewed
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            # Whoever may connect may say something, and is not heard.
            heard = list(one.heard)
            for payload in ("", "[" * 7_000, '["new"]', post().me + ":", post().me + ":AAAA"):
                await connection.execute("SELECT pg_notify(%s, %s)", (VOICES, payload))
            third = post()
            said: tuple[object, ...] = ([], ["test", "strange"], 7, ["test", "c"], ["new"])
            for body in said:
                payload = third.seal(json.dumps(body).encode())
                await connection.execute("SELECT pg_notify(%s, %s)", (VOICES, payload))
        # Whoever is new is told everything.
        await _until(one, lambda: one.renewed > before)
        assert [body for body in one.heard[len(heard) :] if body != ["again"]] == [["c"]]
        stop.request()
        group.cancel_scope.cancel()
    assert len(told) > 5
    assert not [payload for payload in told if '"test"' in payload or "again" in payload]


def test_payloads_are_bounded_and_whole() -> None:
    relay = relay_of("postgresql://", Hub())
    topics = [f"session/sesn_{number:040d}" for number in range(1_000)]
    payloads = relay._payloads(topics)
    assert all(len(payload.encode()) < PAYLOAD_BYTES + 100 for payload in payloads)
    assert [topic for payload in payloads for topic in json.loads(payload)[1:]] == topics


async def test_too_many_topics_become_one() -> None:
    relay = relay_of("postgresql://", Hub())
    for number in range(TOPICS_LIMIT + 1):
        relay._tell(f"topic {number}")
    assert list(relay._changed) == ["*", f"topic {TOPICS_LIMIT}"]


@pytest.fixture
def pair(tmp_path: Path, url: str) -> Iterator[tuple[Site, Site]]:
    """Two servers with one database and one master key, and a site at each."""
    shared = {
        "database_url": url,
        "model_scripts": str(SCRIPTS),
        "bootstrap_api_key": "sk-test-of-two-replicas",
    }
    with ExitStack() as stack:
        one, two = stack.enter_context(both(tmp_path, **shared))

        def site(server: Server) -> Site:
            api = stack.enter_context(
                Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0)
            )
            return stack.enter_context(Site(server, api))

        yield site(one), site(two)


@pytest.mark.timeout(240)
def test_two_servers_are_one(pair: tuple[Site, Site]) -> None:
    here, there = pair
    made = here.session()
    # A stream at one shows a turn that was started at the other, as it happens.
    with there.api.beta.sessions.events.stream(made.id) as stream:
        here.api.beta.sessions.events.send(made.id, events=[MESSAGE])
        seen = []
        for event in stream:
            seen.append(event)
            if event.type == "session.status_idle":
                break
    assert [e.id for e in seen] == [e.id for e in here.events(made.id)]
    # Each of many turns, started at both, is run once; its log reads the same at both.
    sessions = [here.session().id for _ in range(6)]
    for number, session_id in enumerate(sessions):
        pair[number % 2].api.beta.sessions.events.send(session_id, events=[MESSAGE])
    for number, session_id in enumerate(sessions):
        site = pair[(number + 1) % 2]
        site.wait(session_id, "session.status_idle")
        types = site.types(session_id)
        assert types == here.types(session_id)
        assert types.count("agent.message") == 1
    # Work is handed out once, whoever asks where.
    claimed: list[str] = []

    def poll(site: Site) -> None:
        client = site.client(here.key)
        for _ in range(8):
            # On a slow machine nothing is to be handed out again for being slow.
            item = client.beta.environments.work.poll(
                here.environment_id, reclaim_older_than_ms=600_000
            )
            if item is not None:
                claimed.append(item.id)

    threads = [threading.Thread(target=poll, args=(site,)) for site in pair * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(claimed) == len(set(claimed))
    assert len(claimed) == 1 + len(sessions)


@pytest.mark.timeout(240)
def test_a_poll_held_at_one_gets_what_comes_at_the_other(pair: tuple[Site, Site]) -> None:
    here, there = pair
    got: list[str] = []
    client = there.client(here.key)

    def poll() -> None:
        item = client.beta.environments.work.poll(here.environment_id, block_ms=900)
        if item is not None:
            got.append(item.data.id)

    for _ in range(3):  # a held poll is short
        thread = threading.Thread(target=poll)
        thread.start()
        made = here.session()
        thread.join(30)
        if got:
            break
    assert got
    assert made.id


@pytest.mark.timeout(240)
def test_the_other_finishes_what_a_killed_server_began(pair: tuple[Site, Site]) -> None:
    here, there = pair
    made = here.session()
    here.server.process.kill()
    here.server.process.wait()
    there.api.beta.sessions.events.send(made.id, events=[MESSAGE])
    there.wait(made.id, "session.status_idle")
    assert until(lambda: there.types(made.id).count("agent.message") or None) == 1
