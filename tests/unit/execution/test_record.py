import hashlib
import json
import threading
from functools import partial
from pathlib import Path

import anyio
import pytest

from intramuros.execution.record import Record, RecordFailed, weigh
from intramuros.kernel.appendlog import AppendLog, read_lines
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.audit import verify

pytestmark = pytest.mark.anyio


async def test_records_form_one_chain_over_restarts_and_tasks(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        record = Record(path, ManualClock())
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(partial(record.write, "tool.call", number=number))
        record.close()
    lines = list(read_lines(path))
    assert verify(lines).seq == 20
    assert json.loads(lines[0])["at"] == "2026-01-01T00:00:00.000000Z"


async def test_a_record_that_cannot_be_written_leaves_the_chain_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    record = Record(path, ManualClock())
    await record.write("one")
    append = AppendLog.append_all

    def full(_self: AppendLog, _lines: list[str]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AppendLog, "append_all", full)
    with pytest.raises(RecordFailed, match="No space left"):
        await record.write("two")
    monkeypatch.setattr(AppendLog, "append_all", append)
    await record.write("three")
    record.close()
    assert verify(read_lines(path)) == record.head
    assert record.head.seq == 2


async def test_what_is_noted_goes_with_the_next_record_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    record = Record(path, ManualClock())
    record.note("noted", n=1)
    assert list(read_lines(path)) == []
    await record.write("written", n=2)
    record.note("noted", n=3)
    await record.flush()
    await record.flush()
    record.note("noted", n=4)
    record.close()
    lines = list(read_lines(path))
    assert [json.loads(line)["fields"]["n"] for line in lines] == [1, 2, 3, 4]
    assert verify(lines) == record.head


async def test_records_that_come_together_are_written_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    append = AppendLog.append_all

    def count(self: AppendLog, lines: list[str]) -> None:
        sizes.append(len(lines))
        append(self, lines)

    monkeypatch.setattr(AppendLog, "append_all", count)
    record = Record(tmp_path / "audit.jsonl", ManualClock())
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(partial(record.write, "egress.request", number=number))
    record.close()
    assert sum(sizes) == 20
    assert len(sizes) < 5
    assert verify(read_lines(tmp_path / "audit.jsonl")).seq == 20


async def test_whoever_is_cancelled_leaves_nothing_and_takes_nobody_along(
    tmp_path: Path,
) -> None:
    path = tmp_path / "audit.jsonl"
    record = Record(path, ManualClock())
    record.note("noted")
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await record.write("cancelled")
        group.start_soon(record.write, "written")
    record.close()
    kinds = [json.loads(line)["kind"] for line in read_lines(path)]
    assert kinds == ["noted", "written"]


async def test_a_full_disk_fails_everyone_who_waits_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(tmp_path / "audit.jsonl", ManualClock())
    append = AppendLog.append_all

    def full(_self: AppendLog, _lines: list[str]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AppendLog, "append_all", full)
    failed: list[str] = []

    async def write(kind: str) -> None:
        try:
            await record.write(kind)
        except RecordFailed:
            failed.append(kind)

    async with anyio.create_task_group() as group:
        for kind in ("a", "b", "c"):
            group.start_soon(write, kind)
    assert sorted(failed) == ["a", "b", "c"]
    monkeypatch.setattr(AppendLog, "append_all", append)
    await record.write("d")
    record.close()
    assert verify(read_lines(tmp_path / "audit.jsonl")).seq == 1


async def test_one_overlong_record_fails_alone(tmp_path: Path) -> None:
    record = Record(tmp_path / "a", ManualClock())
    record.note("big", text="ü" * 600_000)
    await record.write("small")
    record.close()
    assert verify(read_lines(tmp_path / "a")).seq == 1


async def test_a_record_that_is_too_long_is_refused(tmp_path: Path) -> None:
    record = Record(tmp_path / "a", ManualClock())
    with pytest.raises(RecordFailed):
        await record.write("big", text="x" * 2_000_000)
    record.close()


@pytest.mark.parametrize("last", ["no record", '{"hash": "x", "seq": 1}', "[]"])
def test_a_damaged_end_is_not_continued(tmp_path: Path, last: str) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text(last + "\n")
    with pytest.raises(OperatorError, match="damaged"):
        Record(path, ManualClock())
    assert path.read_text() == last + "\n"
    # The lock is released, so the operator's next try is not told that it is in use.
    AppendLog(path).close()


def test_a_second_worker_on_the_same_file_is_refused(tmp_path: Path) -> None:
    record = Record(tmp_path / "a", ManualClock())
    with pytest.raises(OperatorError, match="in use"):
        Record(tmp_path / "a", ManualClock())
    record.close()


def test_weight_is_of_the_canonical_json() -> None:
    data = b'{"a":1,"b":"\xc3\xa4"}'
    weight = weigh({"b": "ä", "a": 1})
    assert (weight.size, weight.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert weigh({"a": "\ud800"}).size > 0


async def test_what_cannot_be_written_down_is_refused_and_leaves_the_chain_whole(
    tmp_path: Path,
) -> None:
    record = Record(tmp_path / "audit.jsonl", ManualClock())
    with pytest.raises(RecordFailed):
        await record.write("tool.call", call_id="\ud800")
    await record.write("tool.call", call_id="e1")
    record.close()
    assert verify(read_lines(tmp_path / "audit.jsonl")).seq == 1


async def test_a_slow_disk_is_waited_for_in_a_thread_and_a_quick_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []
    clock = ManualClock()
    append = AppendLog.append_all
    takes_s = 0.0

    def measured(self: AppendLog, lines: list[str]) -> None:
        threads.append(threading.current_thread() is not threading.main_thread())
        clock.advance(takes_s)
        append(self, lines)

    monkeypatch.setattr(AppendLog, "append_all", measured)
    record = Record(tmp_path / "audit.jsonl", clock)
    for number in range(20):
        await record.write("quick", number=number)
    assert threads == [True] * 16 + [False] * 4
    takes_s = 0.1
    await record.write("slow")
    takes_s = 0.0
    threads.clear()
    for number in range(20):
        await record.write("quick", number=number)
    assert threads == [True] * 16 + [False] * 4
    record.close()
    assert verify(read_lines(tmp_path / "audit.jsonl")) == record.head
