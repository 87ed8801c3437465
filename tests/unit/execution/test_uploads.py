import json
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from intramuros.execution.client import Away, Upload
from intramuros.execution.record import Record
from intramuros.execution.uploads import Uploads
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.timing import ManualClock
from tests.fakes.hosted import FakeHosted

pytestmark = pytest.mark.anyio
ROOT = "/mnt/session/uploads"


async def names(folder: Path) -> set[str]:
    return {path.name async for path in anyio.Path(folder).iterdir()}


class Rig:
    def __init__(self, folder: Path) -> None:
        self.remote = FakeHosted()
        self.remote.files = {"file_1": b"one", "file_2": b"two"}
        self.audit = folder / "audit.jsonl"
        record = Record(self.audit, ManualClock())
        self.uploads = Uploads(folder / "home", cast("Any", self.remote), record, lambda: 0.0)

    def shown(self) -> dict[str, bytes]:
        root = self.uploads.path
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }


async def test_files_come_to_their_places_and_are_recorded(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.uploads.open([Upload("file_1", f"{ROOT}/a/b/c"), Upload("file_2", f"{ROOT}/d")])
    assert rig.shown() == {"a/b/c": b"one", "d": b"two"}
    assert (rig.uploads.path / "a").stat().st_mode & 0o777 == 0o755
    assert (rig.uploads.path / "d").stat().st_mode & 0o777 == 0o644
    told = [json.loads(line) for line in read_lines(rig.audit)]
    assert [(r["kind"], r["fields"]["file_id"], r["fields"]["bytes"]) for r in told] == [
        ("file.fetch", "file_1", 3),
        ("file.fetch", "file_2", 3),
    ]


async def test_only_what_changed_is_fetched_and_what_is_gone_goes(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    first = Upload("file_1", f"{ROOT}/a")
    await rig.uploads.open([first])
    await rig.uploads.sync([first, Upload("file_2", f"{ROOT}/b")])
    await rig.uploads.sync([Upload("file_2", f"{ROOT}/b")])
    assert rig.shown() == {"b": b"two"}
    assert rig.remote.log == [("download", "file_1"), ("download", "file_2")]
    await rig.uploads.sync([Upload("file_1", f"{ROOT}/b")])
    assert rig.shown() == {"b": b"one"}


async def test_the_directory_itself_stays_for_a_paused_sandbox(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.uploads.open([Upload("file_1", f"{ROOT}/a/b")])
    before = rig.uploads.path.stat().st_ino
    (rig.uploads.path / "stale").write_text("of an earlier worker")
    await rig.uploads.open([Upload("file_2", f"{ROOT}/c")])
    assert rig.uploads.path.stat().st_ino == before
    assert rig.shown() == {"c": b"two"}


async def test_a_file_that_is_gone_is_left_out_and_one_that_is_late_is_waited_for(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    rig.remote.failures = [Away("HTTP 503")]
    await rig.uploads.open([Upload("file_1", f"{ROOT}/a"), Upload("file_9", f"{ROOT}/b")])
    assert rig.shown() == {"a": b"one"}
    rig.remote.failures = [Away("HTTP 503")] * 4
    with pytest.raises(Away):
        await rig.uploads.sync([Upload("file_2", f"{ROOT}/c")])


@pytest.mark.parametrize(
    "place", ["/etc/passwd", f"{ROOT}/../x", "relative", f"{ROOT}/", f"{ROOT}//a", ROOT]
)
async def test_no_place_leads_out(tmp_path: Path, place: str) -> None:
    rig = Rig(tmp_path)
    await rig.uploads.open([Upload("file_1", place)])
    assert rig.shown() == {}
    assert await names(tmp_path) == {"audit.jsonl", "home"}
