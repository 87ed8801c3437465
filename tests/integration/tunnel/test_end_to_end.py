import hashlib
import json
from pathlib import Path

import pytest

from tests.integration.tunnel.rig import Rig, running_tunnel, url
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = pytest.mark.anyio


async def test_a_call_arrives_whole_and_is_on_record_on_both_sides(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "find"}}
    body = json.dumps(call).encode()
    async with running_tunnel(rig, upstream.app) as (client, _):
        for _ in range(3):
            answer = await client.post(
                url("/echo?a=1&a=2"), content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 200
            assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
            assert answer.json()["query"] == "a=1&a=2"
    method, headers, seen = upstream.requests[0]
    assert (method, seen) == ("POST", body)
    assert headers["host"].startswith("127.0.0.1:")
    assert headers["x-forwarded-host"] == url()[8:-1]
    records = rig.audit("gateway-audit.jsonl")
    assert [r["kind"] for r in records] == ["mcp.request", "mcp.response"] * 3
    intent, outcome = records[0]["fields"], records[1]["fields"]
    assert intent["method"] == "tools/call"
    assert intent["name"] == "find"
    assert intent["session"] == "sesn_1"
    assert intent["request_sha256"] == hashlib.sha256(body).hexdigest()
    assert (outcome["status"], outcome["ended"]) == (200, "complete")
    kinds = [r["kind"] for r in rig.audit("edge-audit.jsonl")]
    # One dial for three calls: the inner connection was kept.
    assert kinds.count("dial.opened") == 1
    assert kinds[0] == "link.opened"
