"""Walking a list while others change it: what was there all the time is shown, once."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from anthropic import APIError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.site import MESSAGE, Site, until

_numbers = count(1)


@dataclass
class Listed:
    """A list: how to add to it, take from it (None: it only grows), and read a page of it."""

    add: Callable[[], str]
    take: Callable[[str], object] | None
    page: Callable[..., Any]


def lists(site: Site) -> dict[str, Listed]:
    beta = site.api.beta
    agent, store = site.agent(), beta.memory_stores.create(name="s").id
    log = site.session().id
    vault = beta.vaults.create(display_name="v").id
    memories = beta.memory_stores.memories

    def session() -> str:
        return beta.sessions.create(agent=agent, environment_id=site.environment_id).id

    def credential() -> str:
        auth: Any = {
            "type": "static_bearer",
            "token": "t",
            "mcp_server_url": f"https://x{next(_numbers)}.test",
        }
        return beta.vaults.credentials.create(vault, auth=auth).id

    def events(**query: Any) -> Any:
        return beta.sessions.events.list(log, **query)

    def taken_up(id: str) -> bool | None:
        newest = events(order="desc", limit=10).data
        return any(event.id == id and event.processed_at for event in newest) or None

    def event() -> str:
        sent = beta.sessions.events.send(log, events=[MESSAGE]).data
        assert sent
        # An input that waits stands elsewhere than when it has been taken up (contract AMB 34).
        until(lambda: taken_up(sent[0].id))
        return sent[0].id

    return {
        "agents": Listed(
            lambda: beta.agents.create(name="A", model="scripted/answer").id,
            beta.agents.archive,
            beta.agents.list,
        ),
        "sessions, newest first": Listed(session, beta.sessions.delete, beta.sessions.list),
        "sessions, oldest first": Listed(
            session, beta.sessions.delete, lambda **q: beta.sessions.list(order="asc", **q)
        ),
        "events": Listed(event, None, events),
        "events, newest first": Listed(event, None, lambda **q: events(order="desc", **q)),
        "files": Listed(
            lambda: beta.files.upload(file=(f"{next(_numbers)}.txt", b"x")).id,
            beta.files.delete,
            beta.files.list,
        ),
        "memories": Listed(
            lambda: memories.create(store, path=f"/{next(_numbers) * 7919 % 9973}", content="x").id,
            lambda id: memories.delete(id, memory_store_id=store),
            lambda **q: memories.list(store, **q),
        ),
        "memory versions": Listed(
            lambda: (
                memories.create(store, path=f"/v{next(_numbers)}", content="x").memory_version_id
            ),
            None,
            lambda **q: beta.memory_stores.memory_versions.list(store, **q),
        ),
        "credentials": Listed(
            credential,
            lambda id: beta.vaults.credentials.delete(id, vault_id=vault),
            lambda **q: beta.vaults.credentials.list(vault, **q),
        ),
    }


NAMES = (
    "agents",
    "sessions, newest first",
    "sessions, oldest first",
    "events",
    "events, newest first",
    "files",
    "memories",
    "memory versions",
    "credentials",
)
STEP = st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 2))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEP, min_size=1, max_size=8))
def test_a_walk_shows_what_stays_once(site: Site, name: str, steps: list[Any]) -> None:
    listed = lists(site)[name]
    before = [listed.add() for _ in range(7)]
    gone: set[str] = set()
    seen: list[str] = []
    page, at = None, 0
    while True:
        size, more, fewer = steps[at % len(steps)]
        answer = listed.page(limit=size, **({} if page is None else {"page": page}))
        seen += [row.id for row in answer.data]
        page, at = answer.next_page, at + 1
        if page is None or set(before) - gone <= set(seen):
            break
        for _ in range(more):
            listed.add()
        for id in [id for id in before if id not in gone][:fewer] if listed.take else []:
            listed.take(id)
            gone.add(id)
    counts = Counter(seen)
    assert {counts[id] for id in set(before) - gone} <= {1}, "once each, whatever stays"
    assert {counts[id] for id in gone} <= {0, 1}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", NAMES)
def test_a_walk_beside_a_writer_shows_what_stays_once(site: Site, name: str) -> None:
    listed = lists(site)[name]
    before = [listed.add() for _ in range(12)]
    stop, failed = threading.Event(), []

    def write() -> None:
        try:
            while not stop.is_set():
                added = listed.add()
                if listed.take:  # some things are limited in number
                    listed.take(added)
        except APIError as error:
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            seen = walk(listed, before)
            assert [Counter(seen)[id] for id in before] == [1] * len(before)
    finally:
        stop.set()
        writer.join()
    assert failed == []


def walk(listed: Listed, wanted: list[str]) -> list[str]:
    """Return what a walk shows until it has shown these, or its end: some lists grow faster."""
    seen: list[str] = []
    page = None
    while not set(wanted) <= set(seen):
        answer = listed.page(limit=3, **({} if page is None else {"page": page}))
        seen += [row.id for row in answer.data]
        page = answer.next_page
        if page is None:
            break
    return seen


def test_every_name_has_its_list(site: Site) -> None:
    assert set(lists(site)) == set(NAMES)
