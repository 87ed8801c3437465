from pathlib import Path

import pytest

from intramuros.cli.records import verified_records
from intramuros.kernel.errors import OperatorError
from intramuros.protocol.audit import AuditRecord, Head, seal


def test_a_record_is_believed_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    head, lines = Head(), []
    for number in range(3):
        line, head = seal(head, AuditRecord("2026-11-21T00:00:00Z", "a", {"number": number}))
        lines.append(line)
    file = tmp_path / "audit.jsonl"
    file.write_text("".join(f"{line}\n" for line in lines))
    assert [each["fields"]["number"] for each in verified_records(file)] == [0, 1, 2]
    file.write_text("".join(f"{line}\n" for line in (lines[0], lines[2])))
    with pytest.raises(OperatorError, match="was changed"):
        next(verified_records(file))
    with pytest.raises(OperatorError, match="cannot read"):
        next(verified_records(tmp_path / "none"))
