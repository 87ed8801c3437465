"""Memories and their versions through the official SDK."""

from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.wire.memory import error_of, paths, sha, write
from tests.wire.structure import check

pytestmark = pytest.mark.anyio


def test_R148_create_never_overwrites_and_may_be_empty(client: Anthropic, store: str) -> None:
    made = write(client, store, "/empty", "")
    assert made.id.startswith("mem_")
    assert made.memory_version_id.startswith("memver_")
    assert (made.content, made.content_sha256, made.content_size_bytes) == (None, sha(""), 0)
    with pytest.raises(anthropic.ConflictError):
        write(client, store, "/empty", "new")
    full = client.beta.memory_stores.memories.retrieve(made.id, memory_store_id=store)
    assert full.content == ""


def test_R149_c25_7_an_occupied_path_is_named(client: Anthropic, store: str) -> None:
    first, second = write(client, store, "/a"), write(client, store, "/b")
    for conflicting in (
        lambda: client.beta.memory_stores.memories.with_raw_response.create(
            store, path="/a", content="y"
        ),
        lambda: client.beta.memory_stores.memories.with_raw_response.update(
            second.id, memory_store_id=store, path="/a"
        ),
    ):
        with pytest.raises(anthropic.ConflictError) as caught:
            conflicting()
        error = error_of(caught.value)
        assert error["type"] == "memory_path_conflict_error"
        assert error["conflicting_memory_id"] == first.id
        assert error["conflicting_path"] == "/a"
        # R021: the same request would meet the same answer.
        assert caught.value.response.headers["x-should-retry"] == "false"
    assert paths(client, store) == ["/a", "/b"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "a",
        "/a/",
        "//a",
        "/a//b",
        "/.",
        "/a/../b",
        "/s" * 21,
        "/" + "x" * 1024,
        "/" + "é" * 512,
        "/a\nb",
        "/a\u200bb",
        "/a\u2028b",
        "/a\u2029b",
        "/e\u0301",
        "/a\x00b",
    ],
)
def test_R150_c25_3_paths_are_checked(client: Anthropic, store: str, path: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match="path"):
        write(client, store, path)
    made = write(client, store, "/fine")
    with pytest.raises(anthropic.BadRequestError, match="path"):
        client.beta.memory_stores.memories.update(made.id, memory_store_id=store, path=path)


def test_R150_what_paths_may_be(client: Anthropic, store: str) -> None:
    allowed = ["/" + "x" * 1023, "/s" * 20, "/...", "/A", "/a", "/\u00e9", "/a b", "/日本"]
    for path in allowed:
        write(client, store, path)
    assert paths(client, store) == sorted(allowed)


def test_R151_c25_9_a_rename_keeps_the_id(client: Anthropic, store: str) -> None:
    made = write(client, store, "/a", "text")
    renamed = client.beta.memory_stores.memories.update(
        made.id, memory_store_id=store, path="/dir/b"
    )
    check(renamed)
    assert (renamed.id, renamed.path, renamed.content) == (made.id, "/dir/b", None)
    assert renamed.content_sha256 == made.content_sha256
    assert renamed.updated_at > made.updated_at
    assert renamed.created_at == made.created_at
    write(client, store, "/a")
    both = client.beta.memory_stores.memories.update(
        made.id, memory_store_id=store, path="/c", content="new", view="full"
    )
    assert (both.path, both.content) == ("/c", "new")


def test_R152_R153_c25_8_a_failed_precondition_changes_nothing(
    client: Anthropic, store: str
) -> None:
    memories = client.beta.memory_stores.memories
    made = write(client, store, "/a", "one")
    stale: Any = {"type": "content_sha256", "content_sha256": sha("other")}
    for change in ({"content": "two"}, {"path": "/b"}, {"content": "two", "path": "/b"}):
        with pytest.raises(anthropic.ConflictError) as caught:
            memories.update(made.id, memory_store_id=store, precondition=stale, **change)
        assert error_of(caught.value)["type"] == "memory_precondition_failed_error"
        assert caught.value.response.headers["x-should-retry"] == "false"
    assert memories.retrieve(made.id, memory_store_id=store).memory_version_id == (
        made.memory_version_id
    )
    good: Any = {"type": "content_sha256", "content_sha256": sha("one")}
    assert (
        memories.update(made.id, memory_store_id=store, path="/b", precondition=good).path == "/b"
    )
    for malformed in ({"type": "content_sha256"}, {**good, "content_sha256": sha("one").upper()}):
        with pytest.raises(anthropic.BadRequestError, match="content_sha256"):
            memories.update(made.id, memory_store_id=store, precondition=malformed)  # type: ignore[arg-type]


def test_R154_a_failed_precondition_is_fine_when_all_is_as_asked(
    client: Anthropic, store: str
) -> None:
    made = write(client, store, "/a", "one")
    stale: Any = {"type": "content_sha256", "content_sha256": sha("other")}
    same = client.beta.memory_stores.memories.update(
        made.id, memory_store_id=store, content="one", path="/a", precondition=stale
    )
    assert same == made


def test_R155_delete_may_name_what_it_expects(client: Anthropic, store: str) -> None:
    memories = client.beta.memory_stores.memories
    made = write(client, store, "/a", "one")
    with pytest.raises(anthropic.ConflictError) as caught:
        memories.delete(made.id, memory_store_id=store, expected_content_sha256=sha("two"))
    assert error_of(caught.value)["type"] == "memory_precondition_failed_error"
    with pytest.raises(anthropic.BadRequestError):
        memories.delete(made.id, memory_store_id=store, expected_content_sha256="two")
    deleted = memories.delete(made.id, memory_store_id=store, expected_content_sha256=sha("one"))
    check(deleted)
    assert (deleted.id, deleted.type) == (made.id, "memory_deleted")
    with pytest.raises(anthropic.NotFoundError):
        memories.delete(made.id, memory_store_id=store)
    kept = client.beta.memory_stores.memory_versions.list(store, memory_id=made.id)
    assert [version.operation for version in kept] == ["deleted", "created"]


def test_R156_c25_4_views_and_their_defaults(client: Anthropic, store: str) -> None:
    memories, versions = (
        client.beta.memory_stores.memories,
        client.beta.memory_stores.memory_versions,
    )
    assert write(client, store, "/a", "one", view="full").content == "one"
    made = write(client, store, "/b", "two")
    assert memories.retrieve(made.id, memory_store_id=store).content == "two"
    assert memories.retrieve(made.id, memory_store_id=store, view="basic").content is None
    basic, full = (list(memories.list(store, view=v)) for v in ("basic", "full"))
    assert [getattr(m, "content", "") for m in basic] == [None, None]
    assert [getattr(m, "content", "") for m in full] == ["one", "two"]
    assert [m.content for m in versions.list(store)] == [None, None]
    assert [m.content for m in versions.list(store, view="full")] == ["two", "one"]
    id = made.memory_version_id
    assert versions.retrieve(id, memory_store_id=store).content == "two"
    assert versions.retrieve(id, memory_store_id=store, view="basic").content is None
    for listed in (*basic, *versions.list(store)):
        assert getattr(listed, "content_size_bytes", None) == 3


def test_R147_c25_1_R158_content_is_bounded_and_hashed_as_it_is(
    client: Anthropic, store: str
) -> None:
    largest = "é" * 51_200
    made = write(client, store, "/large", largest)
    assert (made.content_size_bytes, made.content_sha256) == (102_400, sha(largest))
    with pytest.raises(anthropic.BadRequestError, match="102400 bytes"):
        write(client, store, "/larger", largest + "x")
    with pytest.raises(anthropic.BadRequestError, match="102400 bytes"):
        client.beta.memory_stores.memories.update(
            made.id, memory_store_id=store, content=largest + "x"
        )
    odd = "e\u0301\r\n\x00\ufeff \n"
    made = write(client, store, "/odd", odd)
    assert made.content_sha256 == sha(odd)
    found = client.beta.memory_stores.memories.retrieve(made.id, memory_store_id=store)
    assert found.content == odd


def test_R157_full_pages_are_small(
    memory_http: httpx2.Client, client: Anthropic, store: str
) -> None:
    made = [write(client, store, f"/{i:02}") for i in range(23)]
    for name in ("memories", "memory_versions"):
        url = f"/v1/memory_stores/{store}/{name}"
        full = memory_http.get(url, params={"view": "full", "limit": 100}).json()
        assert len(full["data"]) == 20
        assert full["next_page"]
        assert len(memory_http.get(url, params={"limit": 100}).json()["data"]) == 23
        assert len(memory_http.get(url).json()["data"]) == 20
        assert memory_http.get(url, params={"view": "large"}).status_code == 400
    everything = client.beta.memory_stores.memories.list(store, view="full")
    assert [item.path for item in everything] == [memory.path for memory in made]


def test_R159_a_prefix_matches_whole_segments(client: Anthropic, store: str) -> None:
    for path in ("/notes/a", "/notes/b/c", "/notes-old/a", "/notes.md", "/notes0", "/other"):
        write(client, store, path)
    assert paths(client, store, path_prefix="/notes/") == ["/notes/a", "/notes/b/c"]
    assert len(paths(client, store, path_prefix="/")) == 6
    assert paths(client, store, path_prefix="/none/") == []
    for prefix in ("/notes", "notes/", "", "//", "/a/../"):
        with pytest.raises(anthropic.BadRequestError, match="path_prefix"):
            paths(client, store, path_prefix=prefix)


def test_R160_c25_5_c25_6_deeper_memories_roll_up(client: Anthropic, store: str) -> None:
    for path in ("/a", "/b/1", "/b/2", "/b.md", "/c/d/e", "/c/d/f", "/c/g", "/z"):
        write(client, store, path)
    shallow = ["/a", "/b.md", "/b/", "/c/", "/z"]
    assert paths(client, store, depth=1) == shallow
    assert paths(client, store, depth=1, limit=1) == shallow
    assert paths(client, store, depth=1, limit=2) == shallow
    assert paths(client, store, depth=1, path_prefix="/c/", limit=1) == ["/c/d/", "/c/g"]
    assert paths(client, store, depth=0, limit=3) == sorted(paths(client, store))
    kinds = {
        item.path: item.type for item in client.beta.memory_stores.memories.list(store, depth=1)
    }
    assert (kinds["/b/"], kinds["/a"]) == ("memory_prefix", "memory")
    for depth in (2, -1):
        with pytest.raises(anthropic.BadRequestError, match="depth"):
            paths(client, store, depth=depth)


def test_R028_a_cursor_survives_the_longest_path_and_other_filters_refuse_it(
    memory_http: httpx2.Client, client: Anthropic, store: str
) -> None:
    longest = "/" + "é" * 511
    write(client, store, longest)
    write(client, store, "/日本")
    url = f"/v1/memory_stores/{store}/memories"
    cursor = memory_http.get(url, params={"limit": 1}).json()["next_page"]
    rest = memory_http.get(url, params={"limit": 1, "page": cursor}).json()
    assert [item["path"] for item in rest["data"]] == ["/日本"]
    assert rest["next_page"] is None
    for other in ({"depth": 1}, {"path_prefix": "/a/"}):
        assert memory_http.get(url, params={"page": cursor, **other}).status_code == 400
    assert memory_http.get(url, params={"page": "page_none"}).status_code == 400


def test_R161_c25_10_each_real_change_adds_one_version(client: Anthropic, store: str) -> None:
    memories = client.beta.memory_stores.memories
    made = write(client, store, "/a", "one")
    memories.update(made.id, memory_store_id=store, content="one")
    memories.update(made.id, memory_store_id=store, path="/a")
    memories.update(made.id, memory_store_id=store)
    changed = memories.update(made.id, memory_store_id=store, content="two", path="/b")
    memories.delete(made.id, memory_store_id=store)
    versions = list(client.beta.memory_stores.memory_versions.list(store, view="full"))
    for version in versions:
        check(version)
        assert version.id.startswith("memver_")
        assert version.memory_id == made.id
    shown = [(v.operation, v.path, v.content) for v in versions]
    assert shown == [("deleted", "/b", None), ("modified", "/b", "two"), ("created", "/a", "one")]
    assert [v.id for v in versions[1:]] == [changed.memory_version_id, made.memory_version_id]


async def test_R162_versions_are_filtered(async_client: AsyncAnthropic, client: Anthropic) -> None:
    stores = async_client.beta.memory_stores
    store = (await stores.create(name="n")).id
    made = [await stores.memories.create(store, path=f"/{i}", content="x") for i in range(3)]
    await stores.memories.update(made[1].id, memory_store_id=store, content="y")
    versions = [version async for version in stores.memory_versions.list(store, limit=1)]
    assert [v.operation for v in versions] == ["modified", "created", "created", "created"]
    assert sorted(versions, key=lambda v: v.created_at, reverse=True) == versions

    async def ids(**query: Any) -> list[str]:
        return [version.id async for version in stores.memory_versions.list(store, **query)]

    author = versions[0].created_by
    assert author is not None
    assert author.type == "api_actor"
    assert author.api_key_id.startswith("apikey_")
    everything = [version.id for version in versions]
    assert await ids(memory_id=made[1].id) == [everything[0], everything[2]]
    assert await ids(operation="modified") == everything[:1]
    assert await ids(api_key_id=author.api_key_id, limit=2) == everything
    assert await ids(api_key_id="apikey_other") == []
    assert await ids(session_id=author.api_key_id) == []
    assert await ids(service_account_id="svac_other") == []
    assert await ids(created_at_gte=versions[1].created_at) == everything[:2]
    assert await ids(created_at_lte=versions[1].created_at) == everything[1:]
    for wrong in ({"operation": "renamed"}, {"session_id": "s", "api_key_id": "a"}):
        with pytest.raises(anthropic.BadRequestError):
            await ids(**wrong)


def test_R163_R165_R166_c25_11_redaction_wipes_what_is_no_longer_held(
    client: Anthropic, store: str
) -> None:
    memories, versions = (
        client.beta.memory_stores.memories,
        client.beta.memory_stores.memory_versions,
    )
    made = write(client, store, "/secret", "pass")
    first = made.memory_version_id
    with pytest.raises(anthropic.BadRequestError, match="holds now"):
        versions.redact(first, memory_store_id=store)
    memories.update(made.id, memory_store_id=store, content="clean")
    redacted = versions.redact(first, memory_store_id=store)
    check(redacted)
    assert (redacted.path, redacted.content, redacted.content_sha256) == (None, None, None)
    assert redacted.content_size_bytes is None
    assert redacted.redacted_by is not None
    assert redacted.redacted_by.type == "api_actor"
    assert redacted.created_by == redacted.redacted_by
    assert versions.redact(first, memory_store_id=store) == redacted
    assert versions.retrieve(first, memory_store_id=store) == redacted
    memories.delete(made.id, memory_store_id=store)
    gone = next(iter(versions.list(store, operation="deleted")))
    assert (gone.path, gone.content_sha256, gone.content_size_bytes) == ("/secret", None, None)
    assert gone.redacted_at is None
    assert versions.redact(gone.id, memory_store_id=store).path is None
    with pytest.raises(anthropic.NotFoundError):
        versions.redact("memver_none", memory_store_id=store)


def test_R166_there_is_no_way_back(
    memory_http: httpx2.Client, client: Anthropic, store: str
) -> None:
    version = write(client, store, "/a").memory_version_id
    url = f"/v1/memory_stores/{store}/memory_versions/{version}"
    assert memory_http.post(f"{url}/restore").status_code == 404
    assert memory_http.post(url).status_code == 405


def test_a_memory_is_found_in_its_own_store_only(client: Anthropic, store: str) -> None:
    memories, versions = (
        client.beta.memory_stores.memories,
        client.beta.memory_stores.memory_versions,
    )
    other = client.beta.memory_stores.create(name="other").id
    made = write(client, store, "/a")
    for foreign in (
        lambda: memories.retrieve(made.id, memory_store_id=other),
        lambda: memories.update(made.id, memory_store_id=other, content="y"),
        lambda: memories.delete(made.id, memory_store_id=other),
        lambda: versions.retrieve(made.memory_version_id, memory_store_id=other),
        lambda: versions.redact(made.memory_version_id, memory_store_id=other),
        lambda: memories.list("memstore_none"),
    ):
        with pytest.raises(anthropic.NotFoundError):
            foreign()
    raw = memories.with_raw_response.retrieve(made.id, memory_store_id=store)
    assert raw.headers["request-id"].startswith("req_")
    check(raw.parse())


@pytest.mark.timeout(240)
def test_R147_c25_2_a_full_store_takes_edits_only(
    memory_http: httpx2.Client, client: Anthropic
) -> None:
    store = client.beta.memory_stores.create(name="full").id
    url = f"/v1/memory_stores/{store}/memories"
    for number in range(2000):
        assert memory_http.post(url, json={"path": f"/{number}", "content": ""}).status_code == 200
    with pytest.raises(anthropic.BadRequestError, match="2000 memories"):
        write(client, store, "/more")
    listed = list(client.beta.memory_stores.memories.list(store, limit=100))
    assert len(listed) == 2000
    first: Any = listed[0]
    client.beta.memory_stores.memories.update(first.id, memory_store_id=store, content="edit")
    client.beta.memory_stores.memories.delete(first.id, memory_store_id=store)
    write(client, store, "/more")
