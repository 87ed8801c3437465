import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from intramuros.cli.crossing import Crossing
from intramuros.cli.demo import proofs

RESULT = [{"type": "text", "text": "hello ö"}]
DIGEST = hashlib.sha256(
    json.dumps(RESULT, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
).hexdigest()
QUERY = "SELECT count(*) FROM decisions"
EVENTS: list[dict[str, Any]] = [
    {"id": "t", "type": "agent.tool_use", "name": "bash", "input": {"command": "ls"}},
    {"id": "r", "type": "user.tool_result", "tool_use_id": "t", "content": RESULT},
    {"id": "m", "type": "agent.mcp_tool_use", "name": "read_query", "input": {"query": QUERY}},
    {"id": "n", "type": "agent.mcp_tool_result", "mcp_tool_use_id": "m", "content": RESULT},
    {
        "id": "a",
        "type": "agent.message",
        "content": [{"type": "text", "text": '```json\n{"x": 1.5}\n```'}],
    },
]
WORKER: list[dict[str, Any]] = [
    {"kind": "tool.call", "fields": {"call_id": "t"}},
    {"kind": "tool.result", "fields": {"call_id": "t", "sha256": DIGEST}},
]
FOUND = [Crossing("", "gateway", "in", "tools/call read_query", "route bank", 1, "")]
PROBE: dict[str, Any] = {
    "credentials": ["/workspace/decoy.txt"],
    "searched_files": 3,
    "interfaces": ["lo"],
    "reached": [],
    "tried": ["127.0.0.1:1"],
}


def test_figures() -> None:
    assert proofs.figures(EVENTS, {"x": Decimal("1.50")}).held
    assert not proofs.figures(EVENTS, {"x": Decimal("1.51")}).held
    assert not proofs.figures([], {"x": Decimal(1)}).held


def test_calls_recorded() -> None:
    assert proofs.calls_recorded(EVENTS, WORKER, FOUND).held
    assert not proofs.calls_recorded(EVENTS, [], FOUND).held
    assert not proofs.calls_recorded(EVENTS, WORKER, []).held
    assert not proofs.calls_recorded([], WORKER, FOUND).held


def test_digests() -> None:
    assert proofs.digests_agree(EVENTS, WORKER).held
    changed = [EVENTS[0], {**EVENTS[1], "content": [{"type": "text", "text": "hello"}]}]
    assert not proofs.digests_agree(changed, WORKER).held
    assert not proofs.digests_agree([], WORKER).held


def test_no_credential() -> None:
    secrets, places = {"key": "s3cret-key"}, {"events": [b"nothing"]}
    assert proofs.no_credential_inside(secrets, PROBE, places).held
    leaked = proofs.no_credential_inside(secrets, PROBE, {"events": [b"a s3cret-key b"]})
    assert not leaked.held
    assert "key in events" in leaked.seen
    assert "s3cret" not in leaked.seen
    by_shape = {**PROBE, "credentials": ["/workspace/decoy.txt", "/proc/1/environ"]}
    assert not proofs.no_credential_inside(secrets, by_shape, places).held
    blind = {**PROBE, "credentials": []}
    assert not proofs.no_credential_inside(secrets, blind, places).held


def test_no_network() -> None:
    answering = ["127.0.0.1:1"]
    assert proofs.no_network_inside(PROBE, answering).held
    assert not proofs.no_network_inside({**PROBE, "reached": answering}, answering).held
    assert not proofs.no_network_inside({**PROBE, "interfaces": ["eth0", "lo"]}, answering).held
    assert not proofs.no_network_inside(PROBE, []).held
    assert not proofs.no_network_inside(PROBE, ["127.0.0.1:1", "127.0.0.1:2"]).held


@pytest.mark.parametrize(
    ("relayed", "held"),
    [
        (b"\x16host.example" + bytes(100), True),
        (b"\x16host.example" + QUERY.encode() + bytes(100), False),
        (b"\x16host.example", False),
        (bytes(100), False),
    ],
    ids=["ciphertext", "plaintext", "too little", "blind"],
)
def test_the_edge(tmp_path: Path, relayed: bytes, held: bool) -> None:
    (tmp_path / "1.up").write_bytes(relayed)
    texts = proofs.needles(EVENTS)
    assert texts["tool read_query"] == b"read_query"
    assert QUERY.encode() in texts.values()
    files = list(tmp_path.iterdir())
    assert proofs.edge_saw_ciphertext(files, texts, "host.example", 50).held is held


def test_needles_are_long_enough_to_mean_something() -> None:
    assert all(len(text) >= 8 for text in proofs.needles(EVENTS).values())
