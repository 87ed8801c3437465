"""A dream is done once, whatever happens to those who do it."""

from pathlib import Path

import anyio
import pytest

from intramuros.control.dreams import acts
from intramuros.control.store import leases, tables
from intramuros.control.store.dream_tables import dreams
from intramuros.kernel.service import Stop
from tests.integration.control.dreams.bed import Bed, Fuse, Killed

pytestmark = pytest.mark.anyio

COPIED = ["created /notes.md", "created /same.md", "created /stale.md"]
ALL = sorted([*COPIED, "created /new.md", "deleted /stale.md"])
# Claim, act: eleven acts and what comes between; a fuse beyond the last never blows.
MOST_WRITES = 40


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.timeout(240)
async def test_R243_a_dream_that_is_killed_at_any_write_is_dreamed_once(
    tmp_path: Path, behind: bool
) -> None:
    blown = 0
    for at in range(1, MOST_WRITES):
        directory = tmp_path / str(at)
        directory.mkdir()
        bed = Bed(directory)
        dream = await bed.make()
        frail = bed.worker(Fuse(bed.db, at, behind=behind))
        try:
            await bed.run(dream, frail)
        except Killed:
            blown += 1
        bed.clock.advance(200)  # its claim lapses
        done = await bed.run(dream)
        assert (done.status, done.error) == ("completed", None), at
        assert await bed.changes(done.output_id) == ALL, at
        assert await bed.changes(dream.store_id) == COPIED
        assert len(await bed.files()) == 1
        assert await bed.count(tables.sessions, title=f"Dream {dream.id}") == 1
        assert await bed.count(tables.events, type="user.custom_tool_result") == 2
        assert await bed.count(tables.leases, queue=leases.DREAMS) == 0
        bed.db.close()
        if blown < at:
            break
    assert 8 <= blown < MOST_WRITES - 1


async def test_who_lost_its_claim_writes_nothing(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    dream = await bed.make()
    old = await bed.db.write(
        lambda tx: leases.claim(tx, leases.DREAMS, "old", bed.night.world.now_us, 1)
    )
    assert old is not None
    bed.clock.advance(1)
    assert await bed.worker().work_once()  # reaped, and claimed by somebody else
    before = await bed.within(lambda night: night.now(dream))
    with pytest.raises(leases.LostLease):
        await bed.worker()._act(old)
    assert await bed.within(lambda night: night.now(dream)) == before
    bed.db.close()


async def test_an_act_that_keeps_failing_fails_the_dream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = Bed(tmp_path)
    dream = await bed.make()

    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(acts.Acts, "_start", broken)
    for stumble in range(1, 6):
        assert await bed.worker().work_once()
        now = await bed.within(lambda night: night.now(dream))
        assert (now.status, now.progress.stumbles) == ("pending", stumble)
        assert not await bed.worker().work_once()  # not at once
        bed.clock.advance(31)
    done = await bed.run(dream)
    assert done.error is not None
    assert (done.status, done.error["type"]) == ("failed", "internal_error")
    bed.db.close()


async def test_a_dream_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    await bed.make()
    await bed.db.write(lambda tx: tx.execute(dreams.delete()))
    assert await bed.worker().work_once()
    assert await bed.count(tables.leases, queue=leases.DREAMS) == 0
    assert not await bed.worker().work_once()
    bed.db.close()


async def test_lanes_take_what_is_offered_and_stop_when_told(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    dream = await bed.make()
    stop = Stop()
    async with anyio.create_task_group() as group:
        group.start_soon(bed.worker().run, stop)

        async def asked() -> bool:
            return (await bed.within(lambda night: night.now(dream))).progress.part == 1

        with anyio.fail_after(60):
            while not await asked():  # noqa: ASYNC110  a row changes without an event
                await anyio.sleep(0.01)
        stop.request()
    bed.db.close()
