"""What the relay does with a call that a policy judges."""

import json
from pathlib import Path
from typing import Any

import httpcore2
import pytest

from intramuros.protocol.tickets import CALL_HEADER, CallTicket
from intramuros.protocol.who import Kind, Who
from intramuros.tunnel.exchange import DENIED_CODE
from intramuros.tunnel.guard import Guard
from intramuros.tunnel.ledger import AuditUnavailable
from tests.unit.tunnel.test_relay import CLOCK, HOST, PROOF, SIGNER, Bench

pytestmark = pytest.mark.anyio
ANN = Who(Kind.USER, "user_ann", "ann@example.com")
ASK = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "rm"}}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def judged(bench: Bench, policy: str) -> Bench:
    file = bench.path.with_name("p.cedar")
    file.write_text(policy)
    bench.relay.judge.guard = Guard(file)
    return bench


def call(message: object, proof: str = "", accept: str = "application/json") -> bytes:
    body = json.dumps(message).encode()
    ticket = SIGNER.mint_call_ticket(
        CallTicket("tnl_1", HOST, "sesn_1", "t", "wrkspc_1", "agent_1", 2, (ANN,)),
        CLOCK.now().timestamp(),
    )
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: {HOST}\r\n{proof or f'{CALL_HEADER}: {ticket}'}\r\n"
        f"content-type: application/json\r\naccept-encoding: gzip\r\n"
        f"accept: {accept}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def records(bench: Bench) -> list[Any]:
    bench.ledger.close()
    return [json.loads(line) for line in bench.path.read_text().splitlines()]


async def test_a_call_that_is_not_permitted_is_recorded_answered_and_not_made(bench: Bench) -> None:
    judged(bench, 'permit(principal, action, resource) unless { resource == Tool::"docs/rm" };')
    answer = await bench.talk(call(ASK))
    assert answer.startswith(b"HTTP/1.1 200 ")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (error["id"], error["error"]["code"]) == (7, DENIED_CODE)
    assert "rm" not in error["error"]["message"].split()
    assert bench.pool.requests == []
    (record,) = records(bench)
    assert record["kind"] == "mcp.denied"
    expected = {
        "decision": "deny",
        "reason": "not_permitted",
        "action": "call_tool",
        "route": "docs",
        "name": "rm",
        "agent": "agent_1",
        "who": [ANN.claim()],
    }
    assert expected.items() <= record["fields"].items()


async def test_refused_connections_and_notifications_are_answered_with_403(bench: Bench) -> None:
    judged(bench, "")
    for message in (
        {"jsonrpc": "2.0", "id": 1, "method": "initialize"},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
    ):
        answer = await bench.talk(call(message))
        assert answer.startswith(b"HTTP/1.1 403 "), message
    assert bench.pool.requests == []


async def test_old_transports_are_refused_with_403(bench: Bench) -> None:
    judged(bench, "")
    answer = await bench.talk(call(ASK, accept="*/*"))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert bench.pool.requests == []


async def test_nobody_is_permitted_anything_without_being_named(bench: Bench) -> None:
    judged(bench, "permit(principal, action, resource);")
    await bench.talk(call(ASK, proof=PROOF))
    assert bench.pool.requests == []
    (record,) = records(bench)
    assert (record["fields"]["reason"], record["fields"]["who"]) == ("nobody", [])


async def test_a_permitted_list_comes_unpacked_and_without_what_is_hidden(bench: Bench) -> None:
    judged(
        bench,
        """permit(principal, action == Action::"connect", resource);
        permit(principal, action, resource == Tool::"docs/read");""",
    )
    listed = b'{"id":7,"result":{"tools":[{"name":"read"},{"name":"rm"}]}}'
    bench.pool.answer = lambda: httpcore2.Response(
        200, headers=[("content-type", "application/json")], content=listed
    )
    answer = await bench.talk(call(ASK | {"method": "tools/list"}))
    assert b'"read"' in answer
    assert b'"rm"' not in answer
    await bench.talk(call(ASK | {"params": {"name": "read"}}))
    filtered, passed = (dict(request.headers) for request in bench.pool.requests)
    assert b"accept-encoding" not in filtered
    assert passed[b"accept-encoding"] == b"gzip"
    asked, *_ = found = records(bench)
    assert (asked["kind"], asked["fields"]["decision"]) == ("mcp.request", "allow")
    assert [r["fields"].get("hidden") for r in found if r["kind"] == "mcp.response"] == [1, None]


async def test_a_call_is_not_answered_when_the_denial_cannot_be_recorded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(bench, "")

    async def full(_kind: str, _fields: object) -> None:
        raise AuditUnavailable("full", code="audit_unavailable")

    monkeypatch.setattr(bench.ledger, "append", full)
    assert (await bench.talk(call(ASK))).startswith(b"HTTP/1.1 503 ")
