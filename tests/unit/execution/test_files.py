from pathlib import Path
from typing import Any, cast

import pytest

from intramuros.execution.client import Refused, Upload
from intramuros.execution.files import FRESH_S, Files, FilesFailed, Means
from intramuros.execution.record import Record
from intramuros.kernel.timing import ManualClock
from tests.fakes.hosted import FakeHosted
from tests.fakes.outflow import gate, way

pytestmark = pytest.mark.anyio
ONE = Upload("file_1", "/mnt/session/uploads/a")


class Rig:
    def __init__(self, folder: Path) -> None:
        self.remote, self.clock = FakeHosted(), ManualClock()
        self.remote.files = {"file_1": b"one"}
        record = Record(folder / "audit.jsonl", self.clock)
        means = Means(folder / "files", record, self.clock, lambda: 0.0, way(record, gate()))
        self.files = Files(means, cast("Any", self.remote))


async def test_one_directory_is_read_only_and_the_other_the_sandboxs(tmp_path: Path) -> None:
    uploads, outputs = await Rig(tmp_path).files.open([ONE])
    assert (uploads.target, uploads.read_only, uploads.owned) == (
        "/mnt/session/uploads",
        True,
        False,
    )
    assert (outputs.target, outputs.read_only, outputs.owned) == (
        "/mnt/session/outputs",
        False,
        True,
    )
    assert (uploads.source / "a").read_bytes() == b"one"


async def test_without_its_files_a_session_does_not_run(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.remote.failures = [Refused("HTTP 401", 401), Refused("HTTP 401", 401)]
    with pytest.raises(FilesFailed, match="401"):
        await rig.files.open([ONE])


async def test_it_is_time_to_look_at_each_turn_and_after_a_while(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.files.open([])
    assert rig.files.stale(1)
    assert not rig.files.stale(1)
    assert rig.files.stale(2)
    rig.clock.advance(FRESH_S)
    assert rig.files.stale(2)
    await rig.files.refresh([ONE])
    assert not rig.files.stale(2)


async def test_the_last_outputs_are_brought_and_the_directories_stay_until_the_end(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    _, outputs = await rig.files.open([])
    (outputs.source / "r").write_bytes(b"1")
    await rig.files.close(deleted=False)
    assert rig.remote.left == {"r": b"1"}
    assert rig.remote.closed
    assert outputs.source.exists()
    await rig.files.close(deleted=True)
    assert not (tmp_path / "files" / "sesn_1").exists()


async def test_c8_14_R389_a_sandbox_lasts_thirty_days_from_its_creation(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert not await rig.files.outlived()
    _, outputs = await rig.files.open([])
    (outputs.source / "old").write_bytes(b"1")
    for _ in range(29):
        rig.clock.advance(24 * 3600)
        assert not await rig.files.outlived()
    rig.clock.advance(24 * 3600)
    assert await rig.files.outlived()
    assert not outputs.source.exists()
    # The new one has thirty days of its own.
    rig.clock.advance(24 * 3600)
    assert not await rig.files.outlived()
