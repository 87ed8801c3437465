import errno
from pathlib import Path

import anyio
import pytest

from intramuros.kernel.appendlog import AppendLog
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.audit import verify
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


async def test_a_refusing_disk_refuses_the_act_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "audit.jsonl", ManualClock())
    await ledger.append("test", {})

    def full(_self: AppendLog, _line: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(AppendLog, "append", full)
        with pytest.raises(AuditUnavailable) as caught:
            await ledger.append("test", {"lost": True})
        assert caught.value.hints.code == "audit_unavailable"
    with pytest.raises(AuditUnavailable):
        await ledger.append("test", {"text": "\ud800"})
    await ledger.append("test", {"kept": True})
    ledger.close()
    assert verify((tmp_path / "audit.jsonl").read_text().splitlines()).seq == 2


def test_a_file_that_is_no_audit_log_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text("hello\n")
    with pytest.raises(OperatorError, match="does not end in an audit record"):
        Ledger(path, ManualClock())
