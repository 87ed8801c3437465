import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from intramuros.control.store.blobs import CHUNK_BYTES, Blob, Blobs
from intramuros.kernel.errors import OperatorError, TooLarge, Unavailable
from intramuros.kernel.timing import SystemClock

pytestmark = pytest.mark.anyio

DATA = bytes(range(256)) * 20_000  # more than one chunk


async def chunks(data: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def broken() -> AsyncIterator[bytes]:
    for _ in range(100):
        yield b"x" * 65_536
    raise ConnectionAbortedError("gone")


async def whole(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in stream])


@pytest.fixture(params=["directory", "file url", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    urls = {"directory": None, "file url": f"file://{tmp_path}/own", "memory": "memory:///"}
    return Blobs.open(urls[request.param], tmp_path)


async def test_what_was_put_comes_back_with_size_and_digest(store: Blobs) -> None:
    blob = await store.put("ab/abc", chunks(DATA), len(DATA))
    assert blob == Blob("ab/abc", len(DATA), hashlib.sha256(DATA).hexdigest())
    assert await whole(await store.read(blob)) == DATA
    assert await whole(await store.read(blob, 10, 20)) == DATA[10:20]
    assert await whole(await store.read(blob, 5, 5)) == b""


async def test_an_empty_blob_is_a_blob(store: Blobs) -> None:
    blob = await store.put("e/e", chunks(b""), 10)
    assert blob.size_bytes == 0
    assert await whole(await store.read(blob)) == b""


async def test_what_is_there_is_known_without_reading_it(store: Blobs) -> None:
    blob = await store.put("a/a", chunks(b"xy"), 10)
    assert await store.holds(blob)
    assert await store.holds(await store.put("e/e", chunks(b""), 10))
    assert not await store.holds(Blob("a/a", 3, blob.sha256))
    assert not await store.holds(Blob("a/b", 2, blob.sha256))


async def test_a_blob_over_the_limit_leaves_nothing(store: Blobs) -> None:
    with pytest.raises(TooLarge, match="limit of 100 bytes"):
        await store.put("a/big", chunks(DATA), 100)
    with pytest.raises(Unavailable):
        await store.read(Blob("a/big", 5, ""))


async def test_a_blob_cut_short_leaves_nothing(tmp_path: Path) -> None:
    store = Blobs.open(None, tmp_path)
    with pytest.raises(Unavailable):
        await store.put("a/cut", broken(), 10**9)
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


async def test_what_a_crash_cut_off_is_found_by_its_name(tmp_path: Path) -> None:
    store = Blobs.open(None, tmp_path)
    seen: set[str] = set()

    async def watched() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"x" * CHUNK_BYTES
            seen.update(p.name for p in (tmp_path / "blobs").rglob("*") if p.is_file())

    await store.put("a/b", watched(), 10**9)
    now = SystemClock().now()
    # The name while it is written; a killed server leaves it, and no listing shows it.
    assert len(seen) == 1
    left = tmp_path / "blobs/a" / seen.pop()
    assert left.name != "b"
    left.write_bytes(b"half")
    assert [k async for keys in store.older_than(now + timedelta(hours=1)) for k in keys] == ["a/b"]
    assert await store.remove_partial(now - timedelta(hours=1)) == 0
    assert await store.remove_partial(now + timedelta(hours=1)) == 1
    assert not left.exists()
    assert await Blobs.open("memory:///", tmp_path).remove_partial(now) == 0


async def test_a_damaged_blob_never_looks_complete(tmp_path: Path) -> None:
    store = Blobs.open(None, tmp_path)
    blob = await store.put("a/b", chunks(DATA), len(DATA))
    path = tmp_path / "blobs/a/b"
    path.write_bytes(DATA[:-1] + b"!")
    got = b""
    with pytest.raises(Unavailable, match="damaged"):
        async for chunk in await store.read(blob):
            got += chunk
    assert len(got) < len(DATA)
    path.unlink()
    with pytest.raises(Unavailable, match="does not give"):
        await store.read(blob)


async def test_removal_is_repeatable_and_listing_goes_by_age(store: Blobs) -> None:
    for key in ("a/1", "b/2", "b/3"):
        await store.put(key, chunks(b"x"), 1)
    now = SystemClock().now()
    found = [k async for keys in store.older_than(now + timedelta(minutes=1)) for k in keys]
    assert sorted(found) == ["a/1", "b/2", "b/3"]
    await store.remove(["a/1", "a/1", "never"])
    found = [k async for keys in store.older_than(now + timedelta(minutes=1)) for k in keys]
    assert sorted(found) == ["b/2", "b/3"]
    assert [k async for keys in store.older_than(now - timedelta(hours=1)) for k in keys] == []


def test_a_store_that_cannot_be_opened_is_the_operators_matter(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot open the blob store .nope"):
        Blobs.open("nope://bucket", tmp_path)
    (tmp_path / "blobs").write_text("a file")
    with pytest.raises(OperatorError, match="check --blob-url"):
        Blobs.open(None, tmp_path)
