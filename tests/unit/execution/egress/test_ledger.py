import json
from pathlib import Path

import pytest

from intramuros.execution.egress.http1 import Head, Place
from intramuros.execution.egress.ledger import MAX_PATH_CHARS, Claim, Ledger, Tally
from intramuros.execution.record import Record, RecordFailed
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.timing import ManualClock

pytestmark = pytest.mark.anyio

PLACE = Place("api.test", 443, "https")
HEAD = Head(b"GET", b"/a?token=hidden", ((b"authorization", b"hidden"),), b"1.1", 0)


class Full(Record):
    async def write(self, kind: str, **fields: object) -> None:
        raise RecordFailed("disk full")


def written(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in read_lines(path)]


async def test_what_is_asked_and_what_became_of_it(tmp_path: Path) -> None:
    record = Record(tmp_path / "audit", ManualClock())
    ledger = Ledger(record, "sesn_1")
    claim = Claim(PLACE, "allowed_hosts", True, HEAD, ("TOKEN",))
    await ledger.ask(claim)
    tally = Tally(status=200, ended="complete")
    tally.sent.add(b"")
    tally.received.add(b"abc")
    ledger.end(claim, tally, 7)
    await ledger.refuse(PLACE, "host_mismatch")
    record.close()
    asked, ended, refused = written(tmp_path / "audit")
    assert asked["kind"] == "egress.request"
    assert asked["fields"] == {
        "session_id": "sesn_1", "host": "api.test", "port": 443, "verdict": "allow",
        "rule": "allowed_hosts", "method": "GET", "path": "/a", "secrets": ["TOKEN"],
    }  # fmt: skip
    assert ended["kind"] == "egress.end"
    told = ended["fields"]
    assert isinstance(told, dict)
    assert (told["status"], told["response_bytes"], told["ms"]) == (200, 3, 7)
    assert refused["fields"] == {
        "session_id": "sesn_1", "host": "api.test", "port": 443, "verdict": "deny",
        "rule": "host_mismatch",
    }  # fmt: skip
    assert "hidden" not in json.dumps([asked, ended, refused])


async def test_what_cannot_be_recorded_is_not_done_and_a_refusal_stands(tmp_path: Path) -> None:
    record = Full(tmp_path / "audit", ManualClock())
    ledger = Ledger(record, "sesn_1")
    with pytest.raises(RecordFailed):
        await ledger.ask(Claim(PLACE, "allowed_hosts", True))
    await ledger.refuse(PLACE, "connect")
    ledger.end(Claim(PLACE, "x", True), Tally(), 1)
    record.close()


def test_a_long_path_is_cut() -> None:
    long = Head(b"GET", b"/" + b"a" * 9999, (), b"1.1", 0)
    assert len(str(Claim(PLACE, "x", True, long).fields()["path"])) == MAX_PATH_CHARS
