import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.mcp.base import McpTool
from intramuros.control.session.calls import CallKind, Permission
from intramuros.control.session.toolset import (
    NAME_LIMIT,
    Tool,
    judge,
    model_name,
    toolset,
    used_servers,
)
from tests.fakes.loop import ASK, CUSTOM, INSERT, QUERY, agent, mcp_toolset
from tests.fakes.loop import toolset as declared_toolset

LEGAL = re.compile(r"[a-zA-Z0-9_-]{1,128}")


def tool(policy: str | None) -> Tool:
    return Tool("t", CallKind.SANDBOX, policy, "d", {"type": "object"})


def test_what_an_agent_declares_is_what_its_model_is_offered() -> None:
    tools = toolset(agent(declared_toolset(), CUSTOM, mcp_toolset()), {"db": [QUERY, INSERT]})
    assert list(tools) == [
        "bash",
        "read",
        "write",
        "edit",
        "glob",
        "grep",
        "weather",
        "mcp__db__query",
        "mcp__db__insert",
    ]
    assert tools["mcp__db__query"].repeatable
    assert not tools["mcp__db__insert"].repeatable
    definition = tools["weather"].definition()
    assert definition["description"] == "Tells the weather."


def test_an_agent_without_tools_has_none() -> None:
    assert toolset({"tools": None}, {}) == {}
    assert toolset({}, {}) == {}


def test_a_server_that_did_not_answer_offers_nothing() -> None:
    assert toolset(agent(mcp_toolset()), {}) == {}


def test_a_tools_own_entry_overrides_only_what_it_sets() -> None:
    declared = declared_toolset(ASK, bash={"enabled": False}, read={"permission_policy": None})
    tools = toolset(agent(declared), {})
    assert "bash" not in tools
    assert tools["read"].policy == "always_ask"


def test_defaults_differ_between_built_in_and_mcp_tools() -> None:
    bare = {"type": "agent_toolset_20260401"}
    remote = {"type": "mcp_toolset", "mcp_server_name": "db", "default_config": None}
    tools = toolset(agent(bare, remote), {"db": [QUERY]})
    assert tools["bash"].policy == "always_allow"
    assert tools["mcp__db__query"].policy == "always_ask"


def test_everything_off_but_one_tool() -> None:
    declared = {
        "type": "agent_toolset_20260401",
        "default_config": {"enabled": False},
        "configs": [{"name": "read", "enabled": True}],
    }
    assert list(toolset(agent(declared), {})) == ["read"]


def test_used_servers_are_those_of_toolsets() -> None:
    assert used_servers(agent(declared_toolset(), mcp_toolset())) == ["db"]


@pytest.mark.parametrize(
    ("policy", "permission"),
    [
        ("always_allow", Permission.ALLOW),
        ("always_ask", Permission.ASK),
        ("auto", Permission.ASK),
        ("from_the_future", Permission.ASK),
        (None, Permission.ALLOW),
    ],
)
def test_nothing_but_an_allowing_policy_allows(policy: str | None, permission: str) -> None:
    assert judge(tool(policy)).permission == permission


def test_only_custom_tools_have_no_evaluation() -> None:
    assert judge(tool(None)).evaluation is None
    assert judge(tool("always_ask")).evaluation == {"type": "always_ask"}


@given(st.text(min_size=1, max_size=255), st.text(min_size=1, max_size=128))
def test_model_names_are_legal_whatever_servers_call_their_tools(server: str, name: str) -> None:
    given_name = model_name(server, name)
    assert LEGAL.fullmatch(given_name)
    assert len(given_name) <= NAME_LIMIT


def test_names_that_differ_only_in_forbidden_characters_stay_apart() -> None:
    names = {model_name("db", "a.b"), model_name("db", "a/b"), model_name("db", "a_b")}
    assert len(names) == 3


def test_no_server_can_name_a_tool_like_one_of_another() -> None:
    pairs = [("a", "b__c"), ("a__b", "c"), ("a_", "b"), ("a", "_b"), ("a", "__b"), ("a__", "b")]
    names = [model_name(server, name) for server, name in pairs]
    assert len(set(names)) == len(pairs)
    # Nor by taking the digest into its own name.
    assert all(model_name("a", n.removeprefix("mcp__a__")) not in names[1:] for n in names[1:])


def test_a_name_declared_twice_is_offered_once() -> None:
    doubled = [McpTool("q", "first", {}), McpTool("q", "second", {})]
    tools = toolset(agent(mcp_toolset()), {"db": doubled})
    assert tools["mcp__db__q"].description == "first"
