import pytest

from intramuros.cli.crossing import Crossing, Total, checked, crossings, totals
from intramuros.protocol.audit import AuditRecord, BrokenChain, Head, seal

AT = "2026-01-01T00:00:00.000000Z"


def chain(*records: tuple[str, dict[str, object]]) -> list[str]:
    lines, head = [], Head()
    for kind, fields in records:
        line, head = seal(head, AuditRecord(AT, kind, fields))
        lines.append(line)
    return lines


WORKER = chain(
    ("worker.start", {}),
    ("tool.call", {"session_id": "s", "tool": "bash", "rule": "allow", "bytes": 5, "sha256": "a"}),
    ("tool.result", {"session_id": "s", "tool": "bash", "rule": "run", "bytes": 7, "sha256": "b"}),
    ("tool.call", {"session_id": "other", "tool": "bash", "rule": "allow", "bytes": 9}),
)
GATEWAY = chain(
    (
        "mcp.request",
        {
            "session": "s",
            "host": "bank.x.tunnel",
            "upstream": "http://10.0.0.1:1",
            "method": "tools/call",
            "name": "q",
            "request_bytes": 11,
            "request_sha256": "c",
        },
    ),
)


def test_what_crossed_for_one_session() -> None:
    records, head = checked(WORKER)
    assert head.seq == 4
    assert crossings("worker", records, "s") == [
        Crossing(AT, "worker", "in", "bash", "tool allow", 5, "a"),
        Crossing(AT, "worker", "out", "bash", "tool run", 7, "b"),
    ]
    assert len(crossings("worker", records)) == 3


def test_calls_through_the_gateway() -> None:
    records, _ = checked(GATEWAY)
    assert crossings("gateway", records, "s") == [
        Crossing(AT, "gateway", "in", "tools/call q", "route bank", 11, "c")
    ]


def test_requests_of_sandboxes_cross_both_ways() -> None:
    asked = {"session_id": "s", "host": "api.test", "method": "POST", "path": "/v1"}
    sizes = {"request_bytes": 3, "request_sha256": "d", "response_bytes": 5, "response_sha256": "e"}
    lines = chain(
        ("egress.request", {**asked, "rule": "allowed_hosts", "verdict": "allow"}),
        ("egress.end", {**asked, **sizes, "rule": "allowed_hosts"}),
    )
    records, _ = checked(lines)
    assert crossings("worker", records, "s") == [
        Crossing(AT, "worker", "out", "api.test POST /v1", "egress allowed_hosts", 3, "d"),
        Crossing(AT, "worker", "in", "api.test POST /v1", "egress allowed_hosts", 5, "e"),
    ]


def test_whatever_has_a_size_and_a_direction_crosses() -> None:
    outward = {"session_id": "s", "direction": "out", "bytes": 4, "sha256": "f"}
    inward = {**outward, "direction": "in"}
    held = {"session_id": "s", "path": "b.bin", "rules": {"jwt": 1}, "found": ["d2"], "masked": 1}
    lines = chain(
        ("work.claim", inward),
        ("skill.fetch", {**inward, "skill_id": "skill_1"}),
        (
            "output.send",
            {**outward, "path": "a.txt", "masked": 2, "rules": {"jwt": 2}, "found": ["d1"]},
        ),
        ("output.withheld", held),
        (
            "release.ask",
            {**outward, "release_id": "sevt_1", "subject": "output", "rules": {"jwt": 1}},
        ),
        ("ssh.session", {**inward, "rule": "certificate"}),
        ("egress.request", {**outward, "bytes": None, "direction": "sideways"}),
    )
    records, _ = checked(lines)
    found = crossings("worker", records, "s")
    assert found == [
        Crossing(AT, "worker", "in", "skill_1", "skill fetch", 4, "f"),
        Crossing(AT, "worker", "out", "a.txt", "output send", 4, "f", 2, {"jwt": 2}, ("d1",)),
        Crossing(AT, "worker", "held", "b.bin", "output withheld", 0, "", 1, {"jwt": 1}, ("d2",)),
        Crossing(AT, "worker", "out", "sevt_1", "release ask", 4, "f"),
        Crossing(AT, "worker", "in", "", "ssh session certificate", 4, "f"),
    ]
    assert totals(found)[-1] == Total("worker", "found", "jwt", 3, 0)


def test_sums_by_rule() -> None:
    records, _ = checked(WORKER)
    assert totals(crossings("worker", records)) == [
        Total("worker", "in", "tool allow", 2, 14),
        Total("worker", "out", "tool run", 1, 7),
    ]


def test_a_changed_record_is_found() -> None:
    changed = [WORKER[0], WORKER[1].replace('"bytes":5', '"bytes":4'), *WORKER[2:]]
    with pytest.raises(BrokenChain, match="record 2"):
        checked(changed)
