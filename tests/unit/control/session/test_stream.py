import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anthropic._streaming import SSEDecoder
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from intramuros.control.session import stream as stream_module
from intramuros.control.session.stream import Follower, Mixer
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.notify import Whisper, session_topic
from intramuros.control.store.records import Draft, Record
from intramuros.control.store.tables import metadata, workspaces
from intramuros.kernel.errors import NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock, SystemClock
from intramuros.protocol.sse import KEEP_ALIVE
from tests.engines import database_url
from tests.fakes.world import World

BOTH = ("agent.message", "agent.thinking")


def record(seq: int, type: str, id: str | None = None) -> Record:
    return Record("sesn_1", seq, id or f"sevt_{seq}", type, seq, {})


def start(request_seq: int, id: str, kind: str = "agent.message") -> Whisper:
    event = {"type": "event_start", "event": {"type": kind, "id": id}}
    return Whisper(request_seq, kind, event, 0)


def delta(request_seq: int, id: str, text: str) -> Whisper:
    content = {"type": "content_delta", "index": 0, "content": {"type": "text", "text": text}}
    event = {"type": "event_delta", "event_id": id, "delta": content}
    return Whisper(request_seq, "agent.message", event, 1, len(text))


def parsed(frames: list[bytes]) -> list[dict]:
    return [json.loads(e.data) for e in SSEDecoder().iter_bytes(iter(frames))]


def told(event: dict) -> str:
    """Name an event in one word: its type and whom it is about."""
    about = event.get("id") or event.get("event_id") or event["event"]["id"]
    return f"{event['type'].rsplit('.')[-1]}:{about}"


def test_whispers_come_between_their_request_and_its_message() -> None:
    mixer = Mixer(BOTH)
    records = [
        record(1, "span.model_request_start"),
        record(2, "agent.message", "m"),
        record(3, "span.model_request_end"),
    ]
    frames = mixer.mix(records, [start(1, "m"), delta(1, "m", "a")])
    assert [told(e) for e in parsed(frames)] == [
        "model_request_start:sevt_1",
        "event_start:m",
        "event_delta:m",
        "message:m",
        "model_request_end:sevt_3",
    ]


def test_two_requests_at_once_are_kept_apart() -> None:
    mixer = Mixer(BOTH)
    records = [
        record(1, "span.model_request_start"),
        record(2, "span.model_request_end"),
        record(3, "span.model_request_start"),
    ]
    frames = mixer.mix(records, [start(1, "m"), start(3, "n"), delta(3, "n", "x")])
    assert [told(e) for e in parsed(frames)] == [
        "model_request_start:sevt_1",
        "event_start:m",
        "model_request_end:sevt_2",
        "model_request_start:sevt_3",
        "event_start:n",
        "event_delta:n",
    ]


def test_18_7_who_comes_in_the_middle_gets_no_deltas() -> None:
    mixer = Mixer(BOTH)
    assert mixer.mix([], [start(1, "m"), delta(1, "m", "a")]) == []
    mixer.mix([record(5, "span.model_request_start")], [])
    assert mixer.mix([], [delta(5, "m", "its start was lost")]) == []


def test_18_10_nothing_of_a_request_follows_its_end() -> None:
    mixer = Mixer(BOTH)
    mixer.mix([record(1, "span.model_request_start")], [start(1, "m")])
    mixer.mix([record(2, "span.model_request_end")], [])
    assert mixer.mix([], [delta(1, "m", "late")]) == []


def test_other_events_in_between_do_not_end_a_preview() -> None:
    mixer = Mixer(BOTH)
    mixer.mix([record(1, "span.model_request_start")], [start(1, "m")])
    mixer.mix([record(2, "user.custom_tool_result")], [])
    assert [told(e) for e in parsed(mixer.mix([], [delta(1, "m", "a")]))] == ["event_delta:m"]


@pytest.mark.parametrize("wanted", [(), ("agent.thinking",)])
def test_18_1_only_what_was_asked_for_is_previewed(wanted: tuple[str, ...]) -> None:
    mixer = Mixer(wanted)
    opened = [record(1, "span.model_request_start")]
    whispers = [start(1, "t", "agent.thinking"), start(1, "m"), delta(1, "m", "a")]
    shown = [told(e) for e in parsed(mixer.mix(opened, whispers))][1:]
    assert shown == (["event_start:t"] if wanted else [])


def test_frames_are_numbered_for_who_resumes() -> None:
    (sent,) = Mixer((), numbered=True).mix([record(7, "session.updated")], [])
    assert b"\nid: 7\n" in sent
    (sent,) = Mixer(()).mix([record(7, "session.updated")], [])
    assert b"id: 7" not in sent


@given(
    requests=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 5), max_size=12),
    lost=st.sets(st.integers(0, 20)),
)
def test_every_interleaving_keeps_the_order(
    requests: list[int], cuts: list[int], lost: set[int]
) -> None:
    """However records and whispers arrive, each preview is a prefix within its request."""
    timeline: list[Record | Whisper] = []
    for count in requests:
        seq = sum(isinstance(x, Record) for x in timeline) + 1
        message = f"m{seq}"
        timeline.append(record(seq, "span.model_request_start"))
        timeline.append(start(seq, message))
        timeline += [delta(seq, message, str(n)) for n in range(count)]
        timeline.append(record(seq + 1, "agent.message", message))
        timeline.append(record(seq + 2, "span.model_request_end"))
    mixer, frames, place = Mixer(BOTH), [], 0
    for cut in [*cuts, len(timeline)]:
        batch = timeline[place : place + cut]
        place += cut
        # A reader whose buffer was full loses the rest of that request.
        whispers = [w for w in batch if isinstance(w, Whisper) and w.request_seq not in lost]
        frames += mixer.mix([r for r in batch if isinstance(r, Record)], whispers)
    events = parsed(frames)
    shown = [e["id"] for e in events if "processed_at" in e]
    assert shown == [x.id for x in timeline if isinstance(x, Record)]
    open_request, started, texts, done = False, set(), {}, set()
    for event in events:
        if event["type"] == "span.model_request_start":
            open_request = True
        elif event["type"] == "span.model_request_end":
            open_request = False
        elif event["type"] == "event_start":
            assert open_request
            assert event["event"]["id"] not in started
            started.add(event["event"]["id"])
        elif event["type"] == "event_delta":
            assert open_request
            assert event["event_id"] in started - done
            texts.setdefault(event["event_id"], []).append(event["delta"]["content"]["text"])
        else:
            done.add(event["id"])
    for said in texts.values():
        assert said == [str(n) for n in range(len(said))]


class Stage:
    """A session over a file, and a follower of it."""

    def __init__(self, db: Database, world: World, session_id: str) -> None:
        self.db = db
        self.world = world
        self.session_id = session_id

    @asynccontextmanager
    async def follow(
        self, after_seq: int | None = None, clock: object = None
    ) -> AsyncIterator[Follower]:
        with self.world.hub.subscribe(session_topic(self.session_id)) as subscription:
            follower = Follower(
                self.db,
                clock or SystemClock(),
                self.world.ids,
                subscription,
                Mixer(BOTH),
            )
            await follower.open(self.session_id, after_seq)
            yield follower

    async def act(self, what):
        def work(tx: Tx):
            self.world.tx = tx
            return what(self.world)

        return await self.db.write(work)

    async def tell(self, *types: str) -> None:
        await self.act(
            lambda world: world.loop(self.session_id, *(Draft(type, {}) for type in types))
        )


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(database_url(tmp_path / "x.db"))
    with opened.engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(insert(workspaces).values(id="wrkspc_test", name="T", created_us=1))
    yield opened
    opened.close()


@pytest.fixture
async def stage(db: Database, clock: ManualClock, ids: IdFactory) -> Stage:
    def work(tx: Tx) -> tuple[World, str]:
        world = World(tx, clock, ids, "wrkspc_test", db)
        return world, world.create()

    return Stage(db, *await db.write(work))


def types(frames: list[bytes]) -> list[str]:
    return [event["type"] for event in parsed(frames)]


@pytest.mark.anyio
async def test_a_follower_sees_what_comes_and_nothing_of_before(stage: Stage) -> None:
    await stage.tell("session.updated")
    async with stage.follow() as follower:
        await stage.tell("session.error", "internal.mcp_tools")
        assert types(await follower.next()) == ["session.error"]
        await stage.act(lambda world: world.say(stage.session_id))
        await stage.tell("session.updated")
        assert types(await follower.next()) == ["session.updated"]


@pytest.mark.anyio
async def test_a_waiting_follower_is_woken(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not by the look that makes up for lost hints.
    monkeypatch.setattr(stream_module, "SAFETY_S", 3600.0)
    seen: list[str] = []
    async with stage.follow() as follower:

        async def read() -> None:
            seen.extend(types(await follower.next()))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                await stage.tell("session.updated")
    assert seen == ["session.updated"]


@pytest.mark.anyio
async def test_a_lost_hint_only_delays(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "SAFETY_S", 0.02)
    async with stage.follow() as follower:
        stage.world.hub._topics.clear()
        await stage.tell("session.updated")
        with anyio.fail_after(60):
            assert types(await follower.next()) == ["session.updated"]
        stage.world.hub._topics[session_topic(stage.session_id)] = {follower._subscription}


@pytest.mark.anyio
@pytest.mark.rule("c1_25", "c17_7")
async def test_amb_36_silence_is_broken_by_a_comment(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "KEEP_ALIVE_S", 0.01)
    async with stage.follow() as follower:
        assert await follower.next() == [KEEP_ALIVE]


@pytest.mark.anyio
async def test_a_long_backlog_comes_in_bounded_batches(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "BATCH", 2)
    async with stage.follow(after_seq=0) as follower:
        await stage.tell(*["session.updated"] * 5)
        sizes = [len(await follower.next()) for _ in range(3)]
    assert sizes == [2, 2, 1]


@pytest.mark.anyio
async def test_a_follower_resumes_behind_a_position(stage: Stage) -> None:
    await stage.tell("session.updated", "session.error", "session.updated")
    async with stage.follow(after_seq=1) as follower:
        assert types(await follower.next()) == ["session.error", "session.updated"]
    async with stage.follow(after_seq=999) as follower:
        await stage.tell("session.error")
        assert types(await follower.next()) == ["session.error"]


@pytest.mark.anyio
async def test_amb_37_a_terminated_session_ends_the_stream(stage: Stage) -> None:
    async with stage.follow() as follower:
        await stage.tell("session.status_terminated")
        assert types(await follower.next()) == ["session.status_terminated"]
        assert follower.over
    async with stage.follow() as follower:
        assert follower.over
    async with stage.follow(after_seq=0) as follower:
        assert not follower.over
        assert types(await follower.next()) == ["session.status_terminated"]
        assert follower.over


@pytest.mark.anyio
async def test_17_9_a_deleted_session_ends_the_stream(stage: Stage) -> None:
    async with stage.follow() as follower:
        await stage.act(lambda w: w.sessions.delete(w.tx, w.api, stage.session_id))
        (event,) = parsed(await follower.next())
        assert event["type"] == "session.deleted"
        assert event["id"].startswith("sevt_")
        assert event["processed_at"] is not None
        assert follower.over
    with pytest.raises(NotFound):
        async with stage.follow():
            pass


@pytest.mark.anyio
async def test_a_server_that_stops_ends_its_streams(stage: Stage) -> None:
    async with stage.follow() as follower:
        await stage.tell("session.updated")
        stage.world.hub.close()
        assert types(await follower.next()) == ["session.updated"], "nothing durable is held back"
        assert follower.over


def count_looks(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    looks: list[int] = []
    look = follower._look

    async def counted() -> list[Record]:
        looks.append(follower._seq)
        return await look()

    monkeypatch.setattr(follower, "_look", counted)
    return looks


@pytest.mark.anyio
async def test_rows_and_previews_that_follow_need_no_look(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage.follow() as follower:
        await stage.tell("session.updated")
        await follower.next()
        looks = count_looks(follower, monkeypatch)
        await stage.tell("session.error", "internal.mcp_tools")
        asked = Draft("span.model_request_start", {}, private={"epoch": 1})
        await stage.act(
            lambda world: world.loop(stage.session_id, Draft("session.status_running"), asked)
        )
        assert types(await follower.next()) == [
            "session.error",
            "session.status_running",
            "span.model_request_start",
        ]
        stage.world.hub.whisper(stage.session_id, start(follower._seq, "m"))
        assert types(await follower.next()) == ["event_start"]
        assert looks == []


@pytest.mark.anyio
async def test_a_preview_from_another_process_has_the_stream_look_for_its_request(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage.follow() as follower:
        await stage.tell("session.updated")
        await follower.next()
        looks = count_looks(follower, monkeypatch)
        asked = Draft("span.model_request_start", {}, private={"epoch": 1})
        await stage.act(
            lambda world: world.loop(stage.session_id, Draft("session.status_running"), asked)
        )
        # News stay in the process that wrote the rows.
        follower._subscription.take_news()
        stage.world.hub.overhear(stage.session_id, start(follower._seq + 2, "m"))
        assert types(await follower.next()) == [
            "session.status_running",
            "span.model_request_start",
            "event_start",
        ]
        stage.world.hub.overhear(stage.session_id, delta(follower._seq, "m", "a"))
        assert types(await follower.next()) == ["event_delta"]
        assert len(looks) == 1


@pytest.mark.parametrize("late", [start(1, "m"), delta(1, "m", "b")])
def test_a_preview_that_comes_after_what_it_previews_is_not_shown(late: Whisper) -> None:
    mixer = Mixer(BOTH)
    records = [record(1, "span.model_request_start"), record(2, "agent.message", "m")]
    frames = mixer.mix(records, [start(1, "m"), delta(1, "m", "a")])
    assert [told(e) for e in parsed(frames)][1:] == ["event_start:m", "event_delta:m", "message:m"]
    assert mixer.mix([], [late, delta(1, "m", "c")]) == []
    assert len(mixer.mix([], [start(1, "n")])) == 1


@pytest.mark.anyio
async def test_news_behind_a_gap_or_from_before_lose_and_repeat_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage.follow() as follower:
        await stage.tell("session.updated")
        await follower.next()
        looks = count_looks(follower, monkeypatch)
        await stage.tell("session.error")
        missed = follower._subscription.take_news()
        await stage.tell("session.updated")
        assert types(await follower.next()) == ["session.error", "session.updated"]
        assert len(looks) == 1
        stage.world.hub.tell(session_topic(stage.session_id), missed[0])
        await stage.tell("session.error")
        assert types(await follower.next()) == ["session.error"]
        assert len(looks) == 1


@pytest.mark.anyio
async def test_streams_of_a_session_share_the_text_of_a_row(stage: Stage) -> None:
    async with stage.follow() as one, stage.follow() as other:
        for follower in (one, other):
            follower._behind = False
        await stage.tell("session.updated")
        rows = [follower._subscription._news[0].records[0] for follower in (one, other)]
        assert rows[0] is rows[1]
        assert await one.next() == await other.next()
        assert "text" in vars(rows[0])
