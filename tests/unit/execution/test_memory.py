from pathlib import Path
from typing import Any, cast

import pytest

from intramuros.execution.client import Attached, Away, Refused
from intramuros.execution.memory import Memories, MemoryFailed, MemoryTerms
from intramuros.execution.memory_store import Line
from intramuros.execution.record import Record
from intramuros.kernel.timing import ManualClock
from tests.fakes.memory import FakeMemory
from tests.fakes.outflow import gate, way

pytestmark = pytest.mark.anyio

NOTES = Attached("memstore_1", "/mnt/memory/notes", read_only=False)
RULES = Attached("memstore_2", "/mnt/memory/rules", read_only=True)


class Rig:
    def __init__(self, folder: Path, token: str | None = "token") -> None:
        self.folder = folder
        self.remote = FakeMemory(token)
        for store in (NOTES, RULES):
            self.remote.put(store.store_id, "/a", "1")
        self.clock = ManualClock()
        record = Record(folder / "audit.jsonl", self.clock)
        line = Line(cast("Any", self.remote), record, way(record, gate()), self.clock)
        self.memories = Memories(MemoryTerms(folder / "memory", 15.0), line, lambda: 0.0)

    def left(self) -> bool:
        return (self.folder / "memory" / "sesn_1").exists()


async def test_c25_14_each_store_is_mounted_at_its_place(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    mounts = await rig.memories.open([NOTES, RULES])
    assert [(mount.target, mount.read_only, mount.owned) for mount in mounts] == [
        ("/mnt/memory/notes", False, True),
        ("/mnt/memory/rules", True, True),
    ]
    for mount in mounts:
        assert mount.source.is_relative_to(tmp_path / "memory" / "sesn_1")
        assert (mount.source / "a").read_text() == "1"


async def test_without_stores_nothing_happens(tmp_path: Path) -> None:
    rig = Rig(tmp_path, token=None)
    assert await rig.memories.open([]) == ()
    rig.clock.advance(60)
    await rig.memories.sync_if_due()
    await rig.memories.close(clean=True, keep=False)
    assert rig.remote.log == []


async def test_c25_15_without_the_items_token_it_fails(tmp_path: Path) -> None:
    with pytest.raises(MemoryFailed, match="token"):
        await Rig(tmp_path, token=None).memories.open([NOTES])


@pytest.mark.parametrize("place", ["notes", "/mnt/../etc", "/mnt/memory/", "/mnt//memory", ""])
async def test_c25_14_a_place_must_be_plain(tmp_path: Path, place: str) -> None:
    rig = Rig(tmp_path)
    with pytest.raises(MemoryFailed, match="plain"):
        await rig.memories.open([Attached("memstore_1", place, read_only=False)])
    twice = Attached("memstore_2", NOTES.mount_path, read_only=False)
    with pytest.raises(MemoryFailed, match="two"):
        await rig.memories.open([NOTES, twice])


async def test_a_store_that_cannot_be_had_fails(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.remote.failures["full"] = [Away("HTTP 503"), Away("HTTP 503")]
    assert len(await rig.memories.open([NOTES])) == 1
    other = Rig(tmp_path / "other") if (tmp_path / "other").mkdir() is None else rig
    other.remote.failures["full"] = [Refused("HTTP 403", 403)]
    with pytest.raises(MemoryFailed, match="memstore_1"):
        await other.memories.open([NOTES])


async def test_c25_17_syncs_come_at_most_so_often(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    (mount,) = await rig.memories.open([NOTES])
    (mount.source / "b").write_text("2")
    rig.clock.advance(14.9)
    await rig.memories.sync_if_due()
    assert "/b" not in rig.remote.held("memstore_1")
    rig.clock.advance(0.1)
    await rig.memories.sync_if_due()
    assert "/b" in rig.remote.held("memstore_1")
    rig.remote.log.clear()
    await rig.memories.sync_if_due()
    assert rig.remote.log == []


@pytest.mark.parametrize(("clean", "held"), [(True, ["/b"]), (False, ["/a", "/b"])])
async def test_c25_17_the_end_sends_what_is_unsent(
    tmp_path: Path, clean: bool, held: list[str]
) -> None:
    rig = Rig(tmp_path)
    (mount,) = await rig.memories.open([NOTES])
    (mount.source / "a").unlink()
    (mount.source / "b").write_text("2")
    await rig.memories.close(clean=clean, keep=False)
    assert sorted(rig.remote.held("memstore_1")) == held
    assert not rig.left()


async def test_what_could_not_be_sent_or_is_still_mounted_stays(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    (mount,) = await rig.memories.open([NOTES])
    await rig.memories.close(clean=True, keep=True)
    assert rig.left()
    (mount.source / "b").write_text("2")
    rig.remote.failures["list"] = [Away("HTTP 503")] * 2
    await rig.memories.close(clean=True, keep=False)
    assert rig.left()
    await rig.memories.forget()
    assert not rig.left()
