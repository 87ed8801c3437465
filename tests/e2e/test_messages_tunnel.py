"""The Messages API and a private MCP server, with every program between them."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest
import uvicorn
import yaml
from anthropic import Anthropic
from anthropic.types.beta import BetaMCPToolResultBlock, BetaMessage
from anyio.from_thread import start_blocking_portal
from mcp.server.mcpserver import MCPServer

from intramuros.cli.stack import free_ports
from tests.e2e.rig import Command, running
from tests.fakes.messages_server import FakeMessages
from tests.wire.structure import check

pytestmark = pytest.mark.timeout(90)

ANSWER = "the vault opens at nine"


@contextmanager
def handbook() -> Iterator[int]:
    """Serve a private MCP server on loopback; gives its port."""
    server = MCPServer("handbook")

    @server.tool()
    def look_up(word: str) -> str:
        """Look a word up."""
        return f"{word}: {ANSWER}"

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        server.streamable_http_app(), log_level="error", timeout_graceful_shutdown=1
    )
    serving = uvicorn.Server(config)
    thread = threading.Thread(target=serving.run, args=([listener],), daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    serving.should_exit = True
    thread.join(5)
    listener.close()


def test_the_messages_api_reaches_a_private_server(tmp_path: Path) -> None:
    said = {"type": "text", "text": "At nine."}
    fake = FakeMessages.saying([use_of("look_up", {"word": "vault"})], [said])
    data, gateway = tmp_path / "data", tmp_path / "gateway"
    api_port, edge_port = free_ports("127.0.0.1", 2)
    with (
        handbook() as port,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(fake.running()) as provider,
        running(
            *("up", "--data-dir", data, "--port", api_port, "--edge-port", edge_port),
            *("--no-worker", "--model-base-url", provider),
            ANTHROPIC_UPSTREAM_API_KEY="sk-provider",
        ) as up,
    ):
        up.until("ready ")
        setup = Command(
            *("gateway", "init", "--data-dir", data, "--dir", gateway),
            *("--edge", f"127.0.0.1:{edge_port}", "--edge-ca-file", data / "edge" / "ca.pem"),
            *("--route", f"docs=http://127.0.0.1:{port}", "--allow-ip", "127.0.0.1/32"),
        )
        assert setup.wait(60) == 0, setup.output
        domain = yaml.safe_load((gateway / "gateway.yaml").read_text())["tunnel_domain"]
        key = (data / "api-key").read_text().strip()
        with (
            Anthropic(base_url=f"http://127.0.0.1:{api_port}", api_key=key, max_retries=0) as api,
            running("gateway", "--config", gateway / "gateway.yaml") as carrying,
        ):
            carrying.until("ready ")
            answer = ask(api, f"https://docs.{domain}/mcp")
            check(answer, nullable=False)
            assert [block.type for block in answer.content] == [
                "mcp_tool_use",
                "mcp_tool_result",
                "text",
            ]
            result = answer.content[1]
            assert isinstance(result, BetaMCPToolResultBlock)
            assert not result.is_error
            assert ANSWER in str(result.content)
            assert answer.content[2].to_dict()["text"] == said["text"]
            with pytest.raises(anthropic.BadRequestError, match="tunnel"):
                ask(api, "https://docs.elsewhere.tunnel.intramuros.internal/mcp")
    # The provider's own connector was never told of the private address.
    assert domain not in str(fake.bodies)
    (record,) = [path.read_text() for path in gateway.glob("*audit*.jsonl")]
    assert "mcp.request" in record
    assert ANSWER not in record


def use_of(tool: str, given: dict[str, str]) -> Any:
    """Call a tool as it is offered to the model."""
    return {"type": "tool_use", "id": "toolu_1", "name": f"mcp__docs__{tool}", "input": given}


def ask(api: Anthropic, url: str) -> BetaMessage:
    return api.beta.messages.create(
        model="claude-opus-5",
        max_tokens=64,
        messages=[{"role": "user", "content": "When does the vault open?"}],
        mcp_servers=[{"type": "url", "name": "docs", "url": url}],
        tools=[{"type": "mcp_toolset", "mcp_server_name": "docs"}],
        betas=["mcp-client-2025-11-20"],
    )
