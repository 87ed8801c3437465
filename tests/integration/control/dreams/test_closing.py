"""The end of a dream, over a real blob store."""

from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any

import pytest

from intramuros.control.catalog import files
from intramuros.control.dreams import rows
from intramuros.control.store.blobs import Blob
from intramuros.control.store.tables import memory_versions as versions_table
from intramuros.kernel.errors import Unavailable
from tests.fakes.dreams import Night
from tests.integration.control.dreams.bed import Bed

pytestmark = pytest.mark.anyio


async def report_of(bed: Bed) -> str:
    (file,) = await bed.files()
    now_us = bed.night.world.now_us
    _, blob = await bed.db.read(lambda tx: files.content(tx, file.workspace_id, file.id, now_us))
    chunks = await bed.blobs.read(blob)
    return b"".join([bytes(chunk) async for chunk in chunks]).decode()


async def test_the_report_belongs_to_the_session(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    dream = await bed.run(await bed.make())
    (file,) = await bed.files()
    assert (file.parent_id, file.body["downloadable"]) == (dream.session_id, True)
    text = await report_of(bed)
    assert "completed" in text
    assert "| unchanged | 2 |" in text
    assert "+- So. [^1]" in text
    bed.db.close()


async def test_D08_an_update_is_told_from_what_was_there(tmp_path: Path) -> None:
    bed = Bed(tmp_path)

    def begin(night: Night) -> Any:
        made = night.store(notes="old text", stale="b")
        behavior = {"type": "update_existing", "memory_store_id": made}
        return night.begin(made, night.talk("hello"), output_behavior=behavior)

    first = await bed.make()
    await bed.run(first)
    dream = await bed.run(await bed.within(begin))
    assert dream.output_id == dream.store_id
    assert sorted(await bed.within(lambda night: night.held(dream.store_id))) == [
        "/new.md",
        "/notes.md",
    ]
    found = await bed.files()
    assert len(found) == 2
    bed.db.close()


async def test_what_was_redacted_meanwhile_stays_secret(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    dream = await bed.make()
    for _ in range(3):
        await bed.worker().work_once()

    def redact(night: Night) -> None:
        known = rows.known(night.tx, dream, "/same.md")
        assert known is not None
        night.tx.execute(
            versions_table.update()
            .where(versions_table.c.id == known.found)
            .values(content=None, path=None, redacted_us=1)
        )

    await bed.within(redact)
    await bed.run(dream)
    text = await report_of(bed)
    assert "redacted" in text
    bed.db.close()


class Away:
    """A blob store that refuses so many times."""

    def __init__(self, bed: Bed, times: int) -> None:
        self._bed, self.left = bed, times

    async def put(self, key: str, chunks: AsyncIterable[bytes], max_bytes: int) -> Blob:
        self.left -= 1
        if self.left >= 0:
            raise Unavailable("away")
        return await self._bed.blobs.put(key, chunks, max_bytes)


@pytest.mark.parametrize(
    ("times", "status", "reports"), [(2, "completed", 1), (7, "failed", 1), (100, "failed", 0)]
)
async def test_a_blob_store_that_is_away(
    tmp_path: Path, times: int, status: str, reports: int
) -> None:
    bed = Bed(tmp_path)
    dream = await bed.make()
    worker = bed.worker(blobs=Away(bed, times))
    for _ in range(100):
        while await worker.work_once():
            pass
        now = await bed.within(lambda night: night.now(dream))
        if now.stopped_us is not None:
            break
        await bed.play(dream)
        bed.clock.advance(31)
    assert now.status == status
    assert len(await bed.files()) == reports
    # What it wrote is there all the same.
    assert "/new.md" in await bed.within(lambda night: night.held(now.output_id))
    bed.db.close()


async def test_a_full_store_of_files_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    dream = await bed.make()
    worker = bed.worker()
    object.__setattr__(worker.closing, "quota_bytes", 1)
    assert (await bed.run(dream, worker)).status == "completed"
    assert await bed.files() == []
    bed.db.close()


async def test_a_cancel_beats_the_report(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    dream = await bed.make()

    class Slow(Away):
        async def put(self, key: str, chunks: AsyncIterable[bytes], max_bytes: int) -> Blob:
            if not self.left:
                self.left = 1
                await bed.within(
                    lambda night: night.dreams.cancel(night.tx, night.caller, dream.id)
                )
            return await bed.blobs.put(key, chunks, max_bytes)

    done = await bed.run(dream, bed.worker(blobs=Slow(bed, 0)))
    assert done.status == "canceled"
    assert "canceled" in await report_of(bed)
    bed.db.close()
