"""Memory stores as a session's resources, and what its worker's token may do with them."""

import base64
import json
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic

from tests.fakes.messages_server import FakeMessages
from tests.wire.site import MESSAGE, Site
from tests.wire.structure import check
from tests.wire.test_turns import client_of, rested

pytestmark = pytest.mark.anyio


def attach(store_id: str, **more: Any) -> dict[str, Any]:
    return {"type": "memory_store", "memory_store_id": store_id, **more}


def worker_of(site: Site, *resources: dict[str, Any]) -> tuple[Any, Anthropic]:
    """Return a session and a client with the token of its work item."""
    session = site.session(resources=list(resources))
    item = site.worker.beta.environments.work.poll(site.environment_id, block_ms=999)
    assert item is not None
    assert item.data.id == session.id
    assert item.secret is not None
    secret = json.loads(base64.urlsafe_b64decode(item.secret + "=" * (-len(item.secret) % 4)))
    return session, site.client(secret["sessions_token"])


@pytest.mark.parametrize("kind", ["self_hosted", "cloud"])
def test_c11_9_c11_10_c11_11_R142_R143_a_session_shows_what_it_has(site: Site, kind: str) -> None:
    stores = site.api.beta.memory_stores
    first = stores.create(name="Team  Notes!", description="What we know.")
    second = stores.create(name="team notes")
    made = site.session(
        environment_id=site.environment(kind),
        resources=[attach(first.id), attach(second.id, access="read_only", instructions="Obey.")],
    )
    check(made, nullable=False)
    stores.update(first.id, name="Renamed", description="")
    session = site.api.beta.sessions.retrieve(made.id)
    assert [resource.to_dict() for resource in session.resources] == [
        {
            "type": "memory_store",
            "memory_store_id": first.id,
            "name": "Team  Notes!",
            "description": "What we know.",
            "access": "read_write",
            "instructions": None,
            "mount_path": "/mnt/memory/team-notes",
        },
        {
            "type": "memory_store",
            "memory_store_id": second.id,
            "name": "team notes",
            "description": "",
            "access": "read_only",
            "instructions": "Obey.",
            "mount_path": "/mnt/memory/team-notes-2",
        },
    ]
    for limit in ({}, {"limit": 1}):
        listed = list(site.api.beta.sessions.resources.list(made.id, **limit))
        for resource in listed:
            check(resource)
        assert [r.to_dict() for r in listed] == [r.to_dict() for r in session.resources]
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        site.api.beta.sessions.resources.list(made.id, limit=1001)


def test_c11_1_c11_12_R137_R141_what_cannot_be_attached(site: Site) -> None:
    stores = [site.api.beta.memory_stores.create(name="s").id for _ in range(9)]
    with pytest.raises(anthropic.BadRequestError, match="at most 8"):
        site.session(resources=[attach(store) for store in stores])
    for wrong in (
        attach(stores[0], instructions="i" * 4097),
        attach(stores[0], access="write_only"),
        attach(stores[0], mount_path="/workspace"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=r"resources\[0\]"):
            site.session(resources=[wrong])
    with pytest.raises(anthropic.NotFoundError, match="memstore_none"):
        site.session(resources=[attach("memstore_none")])
    site.api.beta.memory_stores.archive(stores[0])
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        site.session(resources=[attach(stores[0])])
    assert len(site.session(resources=[attach(store) for store in stores[1:]]).resources) == 8


def test_c4_19_sessions_are_found_by_their_stores(site: Site) -> None:
    store = site.api.beta.memory_stores.create(name="s").id
    made = [site.session(resources=[attach(store)]).id for _ in range(2)]
    site.session()
    found = site.api.beta.sessions.list(memory_store_id=store, limit=1)
    assert [session.id for session in found] == made[::-1]
    # What a session had is not forgotten with the store, and the other way round (contract 10.24).
    site.api.beta.sessions.delete(made[0])
    assert site.api.beta.memory_stores.retrieve(store).id == store
    site.api.beta.memory_stores.delete(store)
    assert [s.id for s in site.api.beta.sessions.list(memory_store_id=store)] == made[1:]


def test_c2_9_c2_10_R168_a_token_reaches_its_sessions_stores_only(site: Site) -> None:
    stores = site.api.beta.memory_stores
    ours, shared, foreign = (stores.create(name=name).id for name in ("a", "b", "c"))
    theirs = {
        store: stores.memories.create(store, path="/old", content="x").id
        for store in (ours, shared, foreign)
    }
    session, worker = worker_of(site, attach(ours), attach(shared, access="read_only"))
    memories, versions = (
        worker.beta.memory_stores.memories,
        worker.beta.memory_stores.memory_versions,
    )
    made = memories.create(ours, path="/new", content="1")
    memories.update(made.id, memory_store_id=ours, content="2")
    memories.delete(theirs[ours], memory_store_id=ours)
    assert [memory.path for memory in memories.list(ours)] == ["/new"]
    assert [memory.path for memory in memories.list(shared)] == ["/old"]
    for refused in (
        lambda: memories.create(shared, path="/new", content="1"),
        lambda: memories.update(theirs[shared], memory_store_id=shared, content="2"),
        lambda: memories.delete(theirs[shared], memory_store_id=shared),
    ):
        with pytest.raises(anthropic.PermissionDeniedError, match="read-only"):
            refused()
    for unseen in (
        lambda: worker.beta.memory_stores.retrieve(foreign),
        lambda: memories.list(foreign),
        lambda: memories.retrieve(theirs[foreign], memory_store_id=foreign),
        lambda: memories.create(foreign, path="/new", content="1"),
        lambda: memories.delete(theirs[foreign], memory_store_id=foreign),
        lambda: versions.list(foreign),
    ):
        with pytest.raises(anthropic.NotFoundError):
            unseen()
    for kept in (
        lambda: worker.beta.memory_stores.create(name="x"),
        lambda: worker.beta.memory_stores.list(),
        lambda: worker.beta.memory_stores.update(ours, name="x"),
        lambda: worker.beta.memory_stores.archive(ours),
        lambda: worker.beta.memory_stores.delete(ours),
        lambda: versions.redact(made.memory_version_id, memory_store_id=ours),
    ):
        with pytest.raises(anthropic.PermissionDeniedError, match="API key"):
            kept()
    by_session = list(stores.memory_versions.list(ours, session_id=session.id))
    assert [version.operation for version in by_session] == ["deleted", "modified", "created"]
    for version in by_session:
        assert version.created_by is not None
        assert version.created_by.to_dict() == {"type": "session_actor", "session_id": session.id}
    worker.close()


def test_c2_9_R168_environment_keys_are_refused(site: Site) -> None:
    store = site.api.beta.memory_stores.create(name="a").id
    site.session(resources=[attach(store)])
    for refused in (
        lambda: site.worker.beta.memory_stores.retrieve(store),
        lambda: site.worker.beta.memory_stores.memories.list(store),
        lambda: site.worker.beta.memory_stores.memories.create(store, path="/a", content=""),
        lambda: site.worker.beta.memory_stores.memory_versions.list(store),
    ):
        with pytest.raises(anthropic.PermissionDeniedError, match="environment key"):
            refused()


def test_no_credential_no_memory(site: Site) -> None:
    store = site.api.beta.memory_stores.create(name="a").id
    for headers in ({}, {"x-api-key": "sk-none"}):
        answer = httpx2.get(f"{site.server.base_url}/v1/memory_stores/{store}", headers=headers)
        assert answer.status_code == 401


@pytest.mark.timeout(240)
async def test_c11_13_R146_the_model_is_told_where_its_memory_is(tmp_path: Any) -> None:
    fake = FakeMessages.saying([{"type": "text", "text": "I see."}])
    async with (
        fake.running() as model_url,
        client_of(tmp_path / "data", model_url) as (client, _),
    ):
        store = await client.beta.memory_stores.create(name="Team notes", description="We know.")
        agent = await client.beta.agents.create(name="a", model="fake-model", system="Look.")
        place = await client.beta.environments.create(name="p", config={"type": "self_hosted"})
        resource: Any = attach(store.id, instructions="Read it first.")
        session = await client.beta.sessions.create(
            agent=agent.id,
            environment_id=place.id,
            resources=[resource],
            initial_events=[MESSAGE],
        )
        await rested(client, session.id, "end_turn")
    text = json.dumps(fake.bodies[0]["system"])
    for part in ("Look.", "/mnt/memory/team-notes", "read and write", "We know.", "Read it first."):
        assert part in text


def test_c4_22_lists_without_an_order_of_their_own_have_one(site: Site) -> None:
    beta = site.api.beta
    stores = [beta.memory_stores.create(name=f"s{number}").id for number in range(4)]
    shown = [store.id for store in beta.memory_stores.list(limit=2)]
    assert [id for id in shown if id in stores] == stores[::-1]
    memories = beta.memory_stores.memories
    made = [
        memories.create(stores[0], path=f"/{name}", content="x").memory_version_id
        for name in ("b", "a", "c")
    ]
    versions = beta.memory_stores.memory_versions.list(stores[0], limit=2)
    assert [version.id for version in versions] == made[::-1]
    attached: Any = [
        {"type": "memory_store", "memory_store_id": stores[number]} for number in (2, 0, 1)
    ]
    session = site.session(resources=attached)
    listed = [resource.memory_store_id for resource in beta.sessions.resources.list(session.id)]
    assert listed == [stores[2], stores[0], stores[1]]
