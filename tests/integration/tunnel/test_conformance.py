"""The official conformance suite of MCP servers: through the tunnel it finds what it finds without.

The suite speaks plain HTTP, so a relay stands in for the control plane's client: it passes every
request on through the client's own transport, and streams the answer back as it comes.
"""

import re
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from intramuros.kernel.config import environment
from intramuros.protocol.who import Kind, Who
from intramuros.tunnel.dialer import Transport
from tests.fakes import conforming
from tests.integration.tunnel.middlebox import ConnectProxy, serving
from tests.integration.tunnel.rig import (
    Rig,
    client_of,
    running_edge,
    running_gateway,
    running_upstream,
    url,
)

NODE: Final = Path(__file__).parents[1] / "node"
SUITE: Final = NODE / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
LINE: Final = re.compile(r"^[✓✗] (\S+): (\d+) passed, (\d+) failed$", re.MULTILINE)
# The host that a caller names is the tunnel's, never the server's own: the gateway sees to that.
NOT_PASSED_ON: Final = frozenset({"host", "content-length", "transfer-encoding", "connection"})
OF_HOSTS: Final = "dns-rebinding-protection"
EVERYTHING: Final = "permit(principal, action, resource);"

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(120),
    # The suite asks for what the newest protocol calls old, and so do clients in the field.
    pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning"),
    pytest.mark.skipif(
        shutil.which("node") is None or not SUITE.exists(),
        reason="NO CONFORMANCE SUITE: install node and npm, then `make dev`",
    ),
]


def relay(client: httpx2.AsyncClient) -> Starlette:
    """Return an application that passes every request on through the tunnel."""

    async def pass_on(request: Request) -> StreamingResponse:
        headers = [(k, v) for k, v in request.headers.items() if k not in NOT_PASSED_ON]
        sent = client.build_request(
            request.method, url(request.url.path), headers=headers, content=await request.body()
        )
        answer = await client.send(sent, stream=True)

        async def body() -> AsyncIterator[bytes]:
            async with aclosing(answer.aiter_raw()) as chunks:
                async for chunk in chunks:
                    yield chunk

        kept = {k: v for k, v in answer.headers.items() if k not in NOT_PASSED_ON}
        return StreamingResponse(body(), answer.status_code, kept)

    return Starlette(routes=[Route("/mcp", pass_on, methods=["GET", "POST", "DELETE"])])


async def score(port: int) -> dict[str, tuple[str, str]]:
    """Return how many checks passed and failed, by scenario."""
    done = await anyio.run_process(
        ["node", str(SUITE), "server", "--url", f"http://127.0.0.1:{port}/mcp"],
        cwd=NODE,
        env={"PATH": environment()["PATH"]},
        check=False,
    )
    found = LINE.findall(re.sub(r"\x1b\[\d+m", "", done.stdout.decode()))
    assert found, done.stderr.decode()
    return {name: (passed, failed) for name, passed, failed in found}


async def test_t38_the_suite_finds_the_same_through_the_tunnel(tmp_path: Path) -> None:
    async with running_upstream(conforming.make()) as port:
        directly = await score(port)
    assert {failed for _, failed in directly.values()} == {"0"}
    assert sum(int(passed) for passed, _ in directly.values()) >= 40
    # With a policy, which reads what is asked and filters what is listed; by a link of our own, and
    # in a WebSocket by way of a company's proxy.
    async with serving(ConnectProxy().handle) as proxy_port:
        proxied = {
            "edge_proxy": f"http://127.0.0.1:{proxy_port}",
            "edge_transport": Transport.WEBSOCKET,
        }
        for number, way in enumerate(({}, proxied)):
            who = (Who(Kind.USER, "user_1"),)
            rig = Rig(tmp_path / str(number), who=who, policy=EVERYTHING)
            async with (
                running_upstream(conforming.make()) as upstream,
                running_edge(rig) as edge,
                running_gateway(replace(rig.config([edge], upstream), **way)),
                client_of(rig, edge) as client,
                running_upstream(relay(client)) as port,
            ):
                through = await score(port)
            assert through.pop(OF_HOSTS, None)
            assert through == {name: found for name, found in directly.items() if name != OF_HOSTS}
