"""The control plane's signing key is exchanged while edge and gateway run."""

from pathlib import Path

import httpx2
import pytest

from tests.integration.tunnel.rig import (
    Rig,
    client_of,
    eventually,
    running_edge,
    running_gateway,
    running_upstream,
    signing_key,
    url,
)
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


async def works(rig: Rig, edge: int) -> bool:
    async with client_of(rig, edge) as client:
        try:
            return (await client.get(url("/echo"))).status_code == 200
        except httpx2.TransportError:
            return False


def publish(rig: Rig, *pems: bytes) -> None:
    rig.write("control.pub.new", b"".join(pems)).replace(rig.home / "control.pub")


async def test_a_signing_key_is_exchanged_without_a_restart(tmp_path: Path) -> None:
    rig, upstream, next_key = Rig(tmp_path), Upstream(), signing_key()
    old_key = rig.key
    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as edge,
        running_gateway(rig.config([edge], upstream_port)),
    ):
        assert await works(rig, edge)
        # Both count while control changes over; the token is still the old key's.
        publish(rig, old_key.public_pem(), next_key.public_pem())
        rig.key = next_key

        async def taken_up() -> bool:
            return await works(rig, edge)

        await eventually(taken_up, 60)
        rig.key = old_key
        assert await works(rig, edge)
        # The old one is withdrawn: what it signed opens nothing, and its link is cut.
        rig.key = next_key
        publish(rig, next_key.public_pem())

        async def cut() -> bool:
            return any(r["kind"] == "links.cut" for r in rig.audit("edge-audit.jsonl"))

        await eventually(cut, 60)
        assert not await works(rig, edge)
        # With a token of the new key's the gateway comes back by itself.
        rig.use_token(1)
        await eventually(taken_up, 90)
        rig.key = old_key
        assert not await works(rig, edge)
        refused = [
            r["fields"] for r in rig.audit("edge-audit.jsonl") if r["kind"] == "dial.refused"
        ]
        assert "bad_signature" in str(refused)
