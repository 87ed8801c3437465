import errno
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from intramuros.kernel.appendlog import AppendLog
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.audit import verify
from intramuros.tunnel import ledger as module
from intramuros.tunnel.ledger import AuditUnavailable, Ledger

pytestmark = pytest.mark.anyio


async def test_records_are_chained_across_restarts_and_concurrent_writers(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        ledger = Ledger(path, ManualClock())
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(ledger.append, "test", {"number": number})
        head = ledger.head
        ledger.close()
    lines = path.read_text().splitlines()
    assert verify(lines) == head
    assert head.seq == 20


async def test_t35_a_refusing_disk_refuses_the_act_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "audit.jsonl", ManualClock())
    await ledger.append("test", {})

    def full(_self: AppendLog, _lines: Sequence[str]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(AppendLog, "append_all", full)
        with pytest.raises(AuditUnavailable) as caught:
            await ledger.append("test", {"lost": True})
        assert caught.value.hints.code == "audit_unavailable"
    with pytest.raises(AuditUnavailable):
        await ledger.append("test", {"text": "\ud800"})
    await ledger.append("test", {"kept": True})
    ledger.close()
    assert verify((tmp_path / "audit.jsonl").read_text().splitlines()).seq == 2


async def test_t35_a_disk_that_does_not_answer_refuses_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    ledger = Ledger(path, ManualClock())
    stuck, goes_on = threading.Event(), threading.Event()
    append_all = AppendLog.append_all

    def slow(self: AppendLog, lines: Sequence[str]) -> None:
        stuck.set()
        goes_on.wait(60)
        append_all(self, lines)

    refused: dict[int, bool] = {}

    async def act(number: int) -> None:
        try:
            await ledger.append("test", {"number": number})
        except AuditUnavailable as error:
            refused[number] = error.late

    monkeypatch.setattr(AppendLog, "append_all", slow)
    monkeypatch.setattr(module, "LONGEST_S", 0.2)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(act, 0)
            await anyio.to_thread.run_sync(stuck.wait)
            group.start_soon(act, 1)
            group.start_soon(act, 2)
    # What the disk has may still be written, and is said to be; what only waited is gone.
    assert refused == {0: True, 1: False, 2: False}
    assert ledger.failing
    goes_on.set()
    monkeypatch.setattr(module, "LONGEST_S", 30)
    await act(3)
    assert not ledger.failing
    ledger.close()
    lines = path.read_text().splitlines()
    verify(lines)
    assert [json.loads(line)["fields"]["number"] for line in lines] == [0, 3]


async def test_what_is_noted_is_written_soon_in_order_and_survives_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    ledger = Ledger(path, ManualClock())
    full = True
    append_all = AppendLog.append_all

    def sometimes(self: AppendLog, lines: Sequence[str]) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        append_all(self, lines)

    monkeypatch.setattr(AppendLog, "append_all", sometimes)
    async with anyio.create_task_group() as group:
        group.start_soon(ledger.run)
        ledger.note("first", {})
        with pytest.raises(AuditUnavailable):
            await ledger.append("refused", {})
        ledger.note("second", {})
        full = False
        await ledger.append("third", {})
        ledger.note("fourth", {})
        with anyio.fail_after(30):
            # The disk tells nobody when it is done.
            while ledger.head.seq < 4:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    ledger.note("fifth", {})
    ledger.close()
    lines = path.read_text().splitlines()
    verify(lines)
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds == ["first", "second", "third", "fourth", "fifth"]


async def test_many_at_once_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "audit.jsonl", ManualClock())
    syncs: list[int] = []
    append_all = AppendLog.append_all

    def counted(self: AppendLog, lines: Sequence[str]) -> None:
        syncs.append(len(lines))
        append_all(self, lines)

    monkeypatch.setattr(AppendLog, "append_all", counted)
    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(ledger.append, "test", {"number": number})
    ledger.close()
    assert sum(syncs) == 100
    assert len(syncs) <= 3


def test_a_file_that_is_no_audit_log_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text("hello\n")
    with pytest.raises(OperatorError, match="does not end in an audit record"):
        Ledger(path, ManualClock())
