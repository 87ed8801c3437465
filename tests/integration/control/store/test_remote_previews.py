"""Two servers of one database: previews of a turn reach the streams of both, or end as a prefix."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from anthropic import Anthropic
from sqlalchemy import make_url

from tests.postgres import Cluster
from tests.wire.host import Server, both
from tests.wire.site import MESSAGE, Site

TEXT = " ".join(f"wörd{number} \N{GRINNING FACE}" for number in range(30))
PREVIEWS = ["agent.message", "agent.thinking"]
TRIES = 20

Pair = tuple[Site, Site]


@pytest.fixture
def pair(tmp_path: Path, url: str) -> Iterator[Pair]:
    """Two servers with one database, whose model is slow enough to look at."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    told = {"pace_s": 0.02, "steps": [{"text": TEXT} for _ in range(2 * TRIES + 10)]}
    (scripts / "teller.yaml").write_text(yaml.safe_dump(told))
    shared = {
        "database_url": url,
        "model_scripts": str(scripts),
        "bootstrap_api_key": "sk-test-of-previews",
    }
    with ExitStack() as stack:
        one, two = stack.enter_context(both(tmp_path, **shared))

        def site(server: Server) -> Site:
            api = Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0)
            return stack.enter_context(Site(server, stack.enter_context(api)))

        yield site(one), site(two)


def watch(pair: Pair, session_id: str, midway: Callable[[], object] | None = None) -> list[str]:
    """Run a turn; return the text that was previewed at each server.

    Args:
        midway: done once a preview was seen anywhere.
    """
    seen: list[list[Any]] = [[], []]
    opened, begun = threading.Barrier(3, timeout=60), threading.Event()

    def follow(index: int) -> None:
        events = pair[index].api.beta.sessions.events
        with events.stream(session_id, event_deltas=PREVIEWS) as stream:
            opened.wait()
            for event in stream:
                seen[index].append(event)
                if event.type == "event_delta":
                    begun.set()
                if event.type == "session.status_idle":
                    return

    threads = [threading.Thread(target=follow, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    opened.wait()
    pair[0].api.beta.sessions.events.send(session_id, events=[MESSAGE])
    if midway is not None:
        assert begun.wait(60)
        midway()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    durable = [
        [event.id for event in events if not event.type.startswith("event_")] for events in seen
    ]
    assert durable[0] == durable[1]
    return [_previewed(events) for events in seen]


def _previewed(events: list[Any]) -> str:
    """Check that what was previewed is a prefix of what it became, and nothing else was."""
    types = [event.type for event in events]
    if "event_start" not in types:
        assert "event_delta" not in types
        return ""
    start, end = types.index("span.model_request_start"), types.index("agent.message")
    first, *deltas = events[start + 1 : end]
    assert first.type == "event_start"
    assert types.count("event_start") == 1
    assert types.count("event_delta") == len(deltas)
    assert {delta.event_id for delta in deltas} == {first.event.id} == {events[end].id}
    text = "".join(delta.delta.content.text for delta in deltas)
    assert events[end].content[0].text == TEXT
    assert TEXT.startswith(text)
    return text


def both_see_all(pair: Pair, session_id: str) -> None:
    """Have turns until both servers' streams preview the whole text: a busy machine loses some."""
    for _ in range(TRIES):
        texts = watch(pair, session_id)
        if texts == [TEXT, TEXT]:
            return
    raise AssertionError(f"of {len(TEXT)} characters {[len(text) for text in texts]} were seen")


@pytest.mark.timeout(240)
def test_previews_of_a_turn_reach_both_servers_also_after_the_bus_was_cut(
    pair: Pair, url: str, cluster: Cluster
) -> None:
    made = pair[0].session("teller")
    both_see_all(pair, made.id)

    def cut() -> None:
        cluster.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
            f" datname = '{make_url(url).database}' AND application_name LIKE 'intramuros %'"
        )

    texts = watch(pair, made.id, cut)
    # The process that runs the turn needs no bus; the other shows what it had, and no more.
    assert TEXT in texts
    both_see_all(pair, made.id)
