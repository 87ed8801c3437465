import os
from collections.abc import AsyncGenerator, AsyncIterable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from intramuros.execution.sandbox.base import SandboxError
from intramuros.execution.snapshots.sealed import Damaged
from intramuros.execution.snapshots.shelf import ObjectGone, Shelf
from intramuros.execution.snapshots.streams import ahead, fetch, store

pytestmark = pytest.mark.anyio
KEY = bytes(32)


async def chunks(data: bytes, step: int = 400_000, fail: bool = False) -> AsyncGenerator[bytes]:
    for at in range(0, len(data), step):
        await anyio.lowlevel.checkpoint()
        yield data[at : at + step]
    if fail:
        raise SandboxError("it broke off")


async def test_a_stream_is_stored_sealed_and_comes_back(tmp_path: Path) -> None:
    shelf, data = Shelf.open(str(tmp_path)), os.urandom(3_000_000)
    stored = await store(shelf, "data/x", KEY, chunks(data), 1 << 30)
    assert (tmp_path / "data/x").stat().st_size == stored > len(data)
    assert data[:100] not in (tmp_path / "data/x").read_bytes()
    assert b"".join([chunk async for chunk in fetch(shelf, "data/x", KEY)]) == data


async def test_nothing_stays_of_one_that_breaks_off_or_is_too_large(tmp_path: Path) -> None:
    shelf, data = Shelf.open(str(tmp_path)), bytes(4_000_000)
    for stream, limit, why in (
        (chunks(data, fail=True), 1 << 30, "broke off"),
        (chunks(data), 2_000_000, "larger"),
    ):
        with pytest.raises(SandboxError, match=why):
            await store(shelf, "data/x", KEY, stream, limit)
        assert list((tmp_path / "data").iterdir()) == []


async def test_a_changed_one_is_noticed_before_its_end(tmp_path: Path) -> None:
    shelf = Shelf.open(str(tmp_path))
    await store(shelf, "data/x", KEY, chunks(os.urandom(2_500_000)), 1 << 30)
    path = tmp_path / "data/x"
    raw = bytearray(path.read_bytes())
    raw[1_500_000] ^= 1
    path.write_bytes(raw)
    got = 0
    with pytest.raises(Damaged):
        async for chunk in fetch(shelf, "data/x", KEY):
            got += len(chunk)
    assert got <= 1024 * 1024
    with pytest.raises(ObjectGone):
        [chunk async for chunk in fetch(shelf, "data/y", KEY)]


async def test_who_takes_never_sees_the_end_of_what_broke_off() -> None:
    ended = False

    async def take(arriving: AsyncIterable[bytes]) -> int:
        nonlocal ended
        count = 0
        async for chunk in arriving:
            count += len(chunk)
        ended = True
        return count

    with pytest.raises(SandboxError):
        await ahead(chunks(bytes(2_000_000), fail=True), take)
    assert not ended
    assert await ahead(chunks(bytes(2_000_000)), take) == 2_000_000


async def test_who_takes_may_fail_or_stop_early() -> None:
    async def fail(arriving: AsyncIterable[bytes]) -> int:
        async for _ in arriving:
            raise SandboxError("full")
        return 0

    async def one(arriving: AsyncIterable[bytes]) -> int:
        async for chunk in arriving:
            return len(chunk)
        return 0

    with pytest.raises(SandboxError, match="full"):
        await ahead(chunks(bytes(2_000_000)), fail)
    assert await ahead(chunks(bytes(2_000_000)), one) == 400_000
