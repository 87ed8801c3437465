"""Memory stores through the official SDK."""

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.wire.memory import AGENTS, MEMORY, write
from tests.wire.structure import check

pytestmark = pytest.mark.anyio


def test_R133_R134_a_name_is_enough(client: Anthropic) -> None:
    made = client.beta.memory_stores.create(name="Notes")
    check(made)
    assert made.id.startswith("memstore_")
    assert (made.type, made.description, made.metadata) == ("memory_store", "", {})
    assert made.archived_at is None
    assert client.beta.memory_stores.create(name="Notes").id != made.id
    assert client.beta.memory_stores.retrieve(made.id) == made


@pytest.mark.parametrize("name", ["", "n" * 256, "a\x07b", "a\nb", "a\x85b"])
def test_R133_names_are_checked(client: Anthropic, name: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match="name"):
        client.beta.memory_stores.create(name=name)
    assert client.beta.memory_stores.create(name="n" * 255).name == "n" * 255


def test_R134_an_empty_text_clears_the_description(client: Anthropic) -> None:
    made = client.beta.memory_stores.create(name="n", description="d" * 1024)
    changed = client.beta.memory_stores.update(made.id, description="")
    check(changed)
    assert (changed.description, changed.name) == ("", "n")
    with pytest.raises(anthropic.BadRequestError, match="description"):
        client.beta.memory_stores.update(made.id, description="d" * 1025)


def test_c4_6_metadata_is_a_patch_and_bounded(client: Anthropic) -> None:
    made = client.beta.memory_stores.create(name="n", metadata={"a": "1", "b": "2"})
    changed = client.beta.memory_stores.update(made.id, metadata={"a": None, "c": "3"})
    assert changed.metadata == {"b": "2", "c": "3"}
    with pytest.raises(anthropic.BadRequestError, match="metadata"):
        client.beta.memory_stores.update(made.id, metadata={str(i): "" for i in range(15)})
    with pytest.raises(anthropic.BadRequestError, match="metadata"):
        client.beta.memory_stores.create(name="n", metadata={"k" * 65: ""})


def test_R135_memories_do_not_touch_their_store(client: Anthropic, store: str) -> None:
    before = client.beta.memory_stores.retrieve(store)
    write(client, store, "/a")
    assert client.beta.memory_stores.retrieve(store) == before
    renamed = client.beta.memory_stores.update(store, name="Other")
    assert renamed.updated_at > before.updated_at
    archived = client.beta.memory_stores.archive(store)
    assert archived.updated_at > renamed.updated_at


async def test_R136_stores_page_newest_first_and_hide_archived_ones(
    async_client: AsyncAnthropic,
) -> None:
    stores = async_client.beta.memory_stores
    made = [await stores.create(name=f"s{i}") for i in range(4)]
    await stores.archive(made[2].id)
    seen = [found.id async for found in stores.list(limit=1, created_at_gte=made[0].created_at)]
    assert seen == [made[3].id, made[1].id, made[0].id]
    everything = stores.list(
        limit=2,
        include_archived=True,
        created_at_gte=made[1].created_at,
        created_at_lte=made[2].created_at,
    )
    assert [found.id async for found in everything] == [made[2].id, made[1].id]
    for limit in (0, 101):
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            await stores.list(limit=limit)


def test_R137_R138_c25_13_an_archived_store_can_be_read_and_emptied_only(
    client: Anthropic, store: str
) -> None:
    memories, versions = (
        client.beta.memory_stores.memories,
        client.beta.memory_stores.memory_versions,
    )
    memory = write(client, store, "/a")
    archived = client.beta.memory_stores.archive(store)
    check(archived)
    assert archived.archived_at is not None
    assert client.beta.memory_stores.archive(store) == archived
    for refused in (
        lambda: write(client, store, "/b"),
        lambda: memories.update(memory.id, memory_store_id=store, content="y"),
        lambda: client.beta.memory_stores.update(store, name="z"),
    ):
        with pytest.raises(anthropic.BadRequestError, match="archived"):
            refused()
    assert memories.retrieve(memory.id, memory_store_id=store).content == "x"
    memories.delete(memory.id, memory_store_id=store)
    redacted = versions.redact(memory.memory_version_id, memory_store_id=store)
    assert redacted.redacted_at is not None
    assert client.beta.memory_stores.delete(store).id == store


def test_R139_c25_12_delete_takes_everything_along(client: Anthropic, store: str) -> None:
    memory = write(client, store, "/a")
    deleted = client.beta.memory_stores.delete(store)
    check(deleted)
    assert (deleted.id, deleted.type) == (store, "memory_store_deleted")
    for gone in (
        lambda: client.beta.memory_stores.retrieve(store),
        lambda: client.beta.memory_stores.delete(store),
        lambda: client.beta.memory_stores.memories.retrieve(memory.id, memory_store_id=store),
        lambda: list(client.beta.memory_stores.memory_versions.list(store)),
    ):
        with pytest.raises(anthropic.NotFoundError):
            gone()


def test_R006_c1_7_c1_9_either_beta_will_do(memory_http: httpx2.Client) -> None:
    for beta in (MEMORY, AGENTS, f"other-2026-01-01, {MEMORY}"):
        assert (
            memory_http.get("/v1/memory_stores", headers={"anthropic-beta": beta}).status_code
            == 200
        )


def test_R007_c1_8_both_betas_or_none_are_refused(memory_http: httpx2.Client) -> None:
    for beta in (f"{MEMORY},{AGENTS}", "", "other-2026-01-01"):
        answer = memory_http.get("/v1/memory_stores", headers={"anthropic-beta": beta})
        assert answer.status_code == 400
        assert MEMORY in answer.json()["error"]["message"]
