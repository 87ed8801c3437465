"""Event streams through the official SDK and over plain HTTP."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic
from anthropic._streaming import SSEDecoder

from tests.wire.host import running
from tests.wire.site import MESSAGE, Site


def collect(site: Site, session_id: str, last: str, **query: Any) -> tuple[list[Any], Any]:
    """Open a stream, then run a turn; return the events through the first of type ``last``."""
    with site.api.beta.sessions.events.stream(session_id, **query) as stream:
        site.api.beta.sessions.events.send(session_id, events=[MESSAGE])
        found = []
        for event in stream:
            found.append(event)
            if event.type == last:
                return found, stream.response
    raise AssertionError(f"the stream ended before {last}")


@contextmanager
def raw(site: Site, path: str, **params: Any) -> Iterator[httpx2.Response]:
    with site.http.stream("GET", path, params=params, timeout=60) as response:
        yield response


def frames(response: httpx2.Response) -> Iterator[tuple[str | None, dict[str, Any], str | None]]:
    for sse in SSEDecoder().iter_bytes(response.iter_bytes()):
        yield sse.event, json.loads(sse.data), sse.id


@pytest.mark.rule("c1_15", "c17_1", "c17_5", "c17_6", "c17_10")
def test_a_stream_shows_what_the_list_will_show(site: Site) -> None:
    made = site.session()
    seen, response = collect(site, made.id, "session.status_idle")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [e.to_dict() for e in seen] == [e.to_dict() for e in site.events(made.id)]


def test_17_2_nothing_of_before_is_replayed(site: Site) -> None:
    made = site.session()
    first, _ = collect(site, made.id, "session.status_idle")
    second, _ = collect(site, made.id, "session.status_idle")
    assert not {e.id for e in first} & {e.id for e in second}
    assert second[0].type == "session.status_running"


@pytest.mark.rule("c17_8")
def test_17_3_what_happens_after_the_headers_is_seen(site: Site) -> None:
    for _ in range(5):
        made = site.session()
        path = f"/v1/sessions/{made.id}/events/stream"
        with raw(site, path) as response:
            assert response.status_code == 200
            site.api.beta.sessions.update(made.id, title="new")
            name, data, number = next(frames(response))
            assert (name, data["title"], number) == ("message", "new", None)


@pytest.mark.rule("c13_4")
def test_input_is_streamed_when_it_is_processed_and_once(site: Site) -> None:
    made = site.session()
    seen, _ = collect(site, made.id, "session.status_idle")
    (message,) = [e for e in seen if e.type == "user.message"]
    assert message.processed_at is not None


@pytest.mark.rule("c16_6", "c18_3", "c18_4", "c18_5", "c18_6")
def test_18_previews_are_a_prefix_of_what_follows(site: Site) -> None:
    made = site.session()
    seen, _ = collect(
        site, made.id, "session.status_idle", event_deltas=["agent.message", "agent.thinking"]
    )
    types = [e.type for e in seen]
    start, end = types.index("span.model_request_start"), types.index("agent.message")
    previews = seen[start + 1 : end]
    assert previews[0].type == "event_start"
    assert previews[0].event.id == seen[end].id
    deltas = previews[1:]
    assert {e.type for e in deltas} <= {"event_delta"}
    text = "".join(e.delta.content.text for e in deltas)
    assert text
    assert seen[end].content[0].text.startswith(text)
    assert not [t for t in types[end:] if t.startswith("event_")]
    assert not [t for t in site.types(made.id) if t.startswith("event_")]


def test_18_1_previews_are_for_who_asked(site: Site) -> None:
    made = site.session()
    seen, _ = collect(site, made.id, "session.status_idle")
    assert not [e for e in seen if e.type.startswith("event_")]
    seen, _ = collect(site, made.id, "session.status_idle", event_deltas=["agent.thinking"])
    assert not [e for e in seen if e.type.startswith("event_")]


@pytest.mark.parametrize("values", [["user.message"], ["agent.message"] * 101])
def test_18_2_other_previews_are_refused(site: Site, values: list[Any]) -> None:
    made = site.session()
    with pytest.raises(anthropic.BadRequestError, match="event_deltas"):
        site.api.beta.sessions.events.stream(made.id, event_deltas=values)


@pytest.mark.rule("c17_1")
def test_the_primary_threads_stream_is_the_sessions(site: Site) -> None:
    made = site.session()
    (thread,) = site.api.beta.sessions.threads.list(made.id)
    with site.api.beta.sessions.threads.events.stream(thread.id, session_id=made.id) as stream:
        site.api.beta.sessions.events.send(made.id, events=[MESSAGE])
        seen = []
        for event in stream:
            seen.append(event.id)
            if event.type == "session.status_idle":
                break
    assert seen == [e.id for e in site.events(made.id)]
    with pytest.raises(anthropic.NotFoundError):
        site.api.beta.sessions.threads.events.stream("sthr_other", session_id=made.id)


def test_17_9_a_deletion_is_the_last_word(site: Site) -> None:
    made = site.session()
    with site.api.beta.sessions.events.stream(made.id) as stream:
        site.api.beta.sessions.delete(made.id)
        assert [event.type for event in stream] == ["session.deleted"]


def test_amb_37_an_archive_is_the_last_word(site: Site) -> None:
    made = site.session()
    with site.api.beta.sessions.events.stream(made.id) as stream:
        site.api.beta.sessions.archive(made.id)
        assert [event.type for event in stream] == [
            "session.thread_status_terminated",
            "session.status_terminated",
        ]
    with site.api.beta.sessions.events.stream(made.id) as stream:
        assert list(stream) == []


def test_our_addition_a_broken_stream_resumes_where_it_broke(site: Site) -> None:
    made = site.session()
    seen, _ = collect(site, made.id, "session.status_idle")
    path = f"/v1/sessions/{made.id}/events/stream"
    numbered = []
    with raw(site, path, after_seq=0) as response:
        for _, data, number in frames(response):
            numbered.append((data["id"], int(number or 0)))
            if data["type"] == "session.status_idle":
                break
    assert [event_id for event_id, _ in numbered] == [e.id for e in seen]
    half = numbered[len(numbered) // 2]
    with raw(site, path, after_seq=half[1]) as response:
        _, data, _ = next(frames(response))
        assert data["id"] == numbered[len(numbered) // 2 + 1][0]


def test_many_readers_see_the_same(site: Site) -> None:
    made = site.session()
    path = f"/v1/sessions/{made.id}/events/stream"
    opened = threading.Barrier(9)
    seen: list[list[str]] = []

    def read() -> None:
        with (
            httpx2.Client(base_url=site.server.base_url, headers=site.http.headers) as http,
            http.stream("GET", path, timeout=60) as response,
        ):
            opened.wait(60)
            ids = []
            for _, data, _ in frames(response):
                ids.append(data["id"])
                if data["type"] == "session.status_idle":
                    break
            seen.append(ids)

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    opened.wait(60)
    site.api.beta.sessions.events.send(made.id, events=[MESSAGE])
    for reader in readers:
        reader.join(60)
    assert seen == [[e.id for e in site.events(made.id)]] * 8


def test_a_browser_resumes_by_its_last_event_id(site: Site) -> None:
    made = site.session()
    seen, _ = collect(site, made.id, "session.status_idle")
    path = f"/v1/sessions/{made.id}/events/stream"
    with raw(site, path, after_seq=0) as response:
        arriving = frames(response)
        numbers = [next(arriving)[2] for _ in seen]
    site.http.headers["last-event-id"] = str(numbers[-2])
    with raw(site, path, after_seq=0) as response:
        _, data, number = next(frames(response))
    assert (data["id"], number) == (seen[-1].id, numbers[-1])


def test_a_server_that_stops_ends_its_streams_at_once(tmp_path: Path) -> None:
    with (
        running(tmp_path / "data") as server,
        Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as api,
        Site(server, api) as site,
    ):
        made = site.session()
        with api.beta.sessions.events.stream(made.id) as stream:
            server.process.send_signal(signal.SIGTERM)
            assert list(stream) == []
        server.process.wait(60)
        # Nothing had to be cut off: neither by the server's time to drain nor by that of HTTP.
        assert "drain_ended" not in server.log
        assert "shutdown exceeded" not in server.log
