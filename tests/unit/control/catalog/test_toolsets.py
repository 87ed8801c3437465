from typing import Any

import pytest
from pydantic import TypeAdapter

from intramuros.control.catalog.toolsets import (
    check_servers,
    check_skills,
    check_tools,
    resolve_servers,
    resolve_tools,
)
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.agents import McpServer
from intramuros.protocol.resources.tools import Tool

TOOLS: TypeAdapter[list[Any]] = TypeAdapter(list[Tool])
ASK, ALLOW = {"type": "always_ask"}, {"type": "always_allow"}


def tools(*raw: dict[str, object]) -> list[Any]:
    return TOOLS.validate_python(list(raw))


def custom(name: str) -> dict[str, object]:
    return {"type": "custom", "name": name, "description": "d", "input_schema": {"type": "object"}}


def mcp(name: str, **more: object) -> dict[str, object]:
    return {"type": "mcp_toolset", "mcp_server_name": name, **more}


BUILTIN = {"type": "agent_toolset_20260401"}


@pytest.mark.rule("c6_5", "c6_6", "R097", "R099")
def test_defaults_differ_between_our_own_tools_and_other_peoples() -> None:
    builtin, server = resolve_tools(tools(BUILTIN, mcp("crm")))
    assert builtin["default_config"] == {"enabled": True, "permission_policy": ALLOW}
    assert server["default_config"] == {"enabled": True, "permission_policy": ASK}
    assert builtin["configs"] == server["configs"] == []


@pytest.mark.rule("c6_4", "c6_5", "R097", "R098")
def test_entries_override_the_default_field_by_field() -> None:
    (resolved,) = resolve_tools(
        tools(
            mcp(
                "crm",
                default_config={"enabled": False, "permission_policy": {"type": "auto"}},
                configs=[
                    {"name": "a", "enabled": True},
                    {"name": "b", "permission_policy": ALLOW},
                    {"name": "c", "enabled": None, "permission_policy": None},
                ],
            )
        )
    )
    assert resolved["configs"] == [
        {"name": "a", "enabled": True, "permission_policy": {"type": "auto"}},
        {"name": "b", "enabled": False, "permission_policy": ALLOW},
        {"name": "c", "enabled": False, "permission_policy": {"type": "auto"}},
    ]


@pytest.mark.rule("c6_23")
def test_web_entries_show_their_own_settings_in_object_form() -> None:
    (resolved,) = resolve_tools(
        tools(
            custom("lookup"),
            {
                **BUILTIN,
                "configs": [
                    {
                        "name": "web_fetch",
                        "url_sources": {
                            "user_input": "all",
                            "client_tool_results": {
                                "type": "only",
                                "tools": [{"type": "tool_reference", "name": "lookup"}],
                            },
                        },
                    },
                    {"name": "web_search"},
                ],
            },
        )
    )[1:]
    fetch, search = resolved["configs"]
    assert fetch["url_sources"] == {
        "user_input": {"type": "all"},
        "client_tool_results": {
            "type": "only",
            "tools": [{"type": "tool_reference", "name": "lookup"}],
        },
        "server_tool_results": None,
    }
    assert (fetch["allowed_domains"], fetch["max_content_tokens"]) == (None, None)
    assert (search["user_location"], search["blocked_domains"]) == (None, None)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([BUILTIN, BUILTIN], "appears twice"),
        ([mcp("a"), mcp("b"), mcp("a")], r"tools\[2\].*'a'"),
        ([custom("x"), custom("x")], "custom tool 'x'"),
        ([custom(f"t{i}") for i in range(249)] + [BUILTIN], "at most 256"),
        ([mcp("a", configs=[{"name": f"t{i}"} for i in range(257)])], "at most 256"),
        (
            [
                {
                    **BUILTIN,
                    "configs": [
                        {
                            "name": "web_fetch",
                            "url_sources": {
                                "client_tool_results": {
                                    "type": "except",
                                    "tools": [{"type": "tool_reference", "name": "gone"}],
                                }
                            },
                        }
                    ],
                }
            ],
            "'gone'",
        ),
    ],
)
@pytest.mark.rule("c5_24", "R095")
def test_lists_that_contradict_themselves_are_refused(
    raw: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        check_tools(tools(*raw))


@pytest.mark.rule("c5_24", "R095")
def test_exactly_256_tools_are_fine() -> None:
    check_tools(tools(BUILTIN, *(custom(f"t{i}") for i in range(248))))


@pytest.mark.rule("c5_23", "R094")
def test_toolsets_and_servers_must_name_each_other() -> None:
    resolved = resolve_tools(tools(mcp("crm")))
    servers = resolve_servers([McpServer(type="url", name="crm", url="https://crm.example/mcp")])
    check_servers(resolved, servers)
    with pytest.raises(InvalidRequest, match="mcp_servers does not hold"):
        check_servers(resolved, [])
    with pytest.raises(InvalidRequest, match="no mcp_toolset"):
        check_servers([], servers)


def test_c5_27_skills_need_an_enabled_read_tool() -> None:
    def toolset(enabled: bool, read: bool | None) -> dict[str, object]:
        configs = [] if read is None else [{"name": "read", "enabled": read}]
        return {"configs": configs, "default_config": {"enabled": enabled}}

    server = {**toolset(enabled=True, read=True), "mcp_server_name": "x"}
    for good in (toolset(True, None), toolset(False, True)):
        check_skills([server, good], ["skill"])
    for bad in ([], [toolset(True, False)], [toolset(False, None)], [server], [{"name": "read"}]):
        check_skills(bad, [])
        with pytest.raises(InvalidRequest, match="`read` tool"):
            check_skills(bad, ["skill"])
