from typing import Any

import pytest

from intramuros.control.inference.servers import OLD_BETA, rewritten, wanted
from intramuros.control.mcp.base import McpTool
from intramuros.kernel.errors import InvalidRequest

OURS = {"type": "url", "name": "docs", "url": "https://docs.tunnel"}
THEIRS = {"type": "url", "name": "crm", "url": "https://crm.example.com"}
TOOLSET = {"type": "mcp_toolset", "mcp_server_name": "docs"}
TOOLS = [McpTool(name, "d", {"type": "object"}) for name in ("look", "burn")]


def is_ours(url: str) -> bool:
    return url.endswith(".tunnel")


def offered(body: dict[str, Any], *betas: str) -> list[dict[str, Any]]:
    (one,) = wanted(body, is_ours, frozenset(betas))
    return [tool.definition for tool in one.offer(TOOLS)]


def body(toolset: dict[str, Any] | None = TOOLSET, **server: Any) -> dict[str, Any]:
    tools = [toolset] if toolset else []
    return {"mcp_servers": [THEIRS, {**OURS, **server}], "tools": tools, "messages": []}


def test_toolsets_choose_and_configure() -> None:
    off = {"default_config": {"enabled": False}, "configs": {"look": {"enabled": True}}}
    assert [d["name"] for d in offered(body({**TOOLSET, **off}))] == ["mcp__docs__look"]
    late = {"default_config": {"defer_loading": True}, "configs": {"burn": {}}}
    assert all(d["defer_loading"] for d in offered(body({**TOOLSET, **late})))
    cached = offered(body({**TOOLSET, "cache_control": {"type": "ephemeral"}}))
    assert ["cache_control" in d for d in cached] == [False, True]


def test_the_old_beta_configures_at_the_server() -> None:
    old = {"tool_configuration": {"allowed_tools": ["burn"]}}
    assert [d["name"] for d in offered(body(None, **old), OLD_BETA)] == ["mcp__docs__burn"]
    assert offered(body(None, tool_configuration={"enabled": False}), OLD_BETA) == []
    with pytest.raises(InvalidRequest, match="exactly one"):
        offered(body(None, **old))


def test_the_provider_gets_plain_tools_in_place_and_other_servers_as_they_are() -> None:
    other = {"name": "own", "input_schema": {}}
    sent = {**body(), "tools": [TOOLSET, other]}
    (one,) = wanted(sent, is_ours, frozenset())
    out = rewritten(sent, [one], one.offer(TOOLS))
    assert out["mcp_servers"] == [THEIRS]
    assert [t["name"] for t in out["tools"]] == ["mcp__docs__look", "mcp__docs__burn", "own"]
    alone = {**sent, "mcp_servers": [OURS], "tools": [TOOLSET]}
    assert {"mcp_servers", "tools"}.isdisjoint(rewritten(alone, [one], []))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (body(type="x"), r"mcp_servers\[1\]\.type"),
        (body(name=""), r"mcp_servers\[1\]\.name"),
        (body(authorization_token="a\r\nb"), r"mcp_servers\[1\]\.authorization_token"),
        (body({**TOOLSET, "configs": {"look": {"x": 1}}}), r"tools\[0\]\.configs"),
        ({**body(), "mcp_servers": [OURS, OURS]}, "same name"),
        ({**body(), "tools": 5}, "tools: expected"),
    ],
)
def test_wrong_entries_are_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        wanted(wrong, is_ours, frozenset())


def test_tokens_are_not_shown() -> None:
    (one,) = wanted(body(authorization_token="secret-value"), is_ours, frozenset())
    assert one.server.token == "secret-value"
    assert "secret-value" not in repr(one.server)


def test_what_is_no_list_is_the_providers_to_judge() -> None:
    for servers in (None, "x", [None], [{"url": 1}]):
        assert wanted({"mcp_servers": servers}, is_ours, frozenset()) == []
