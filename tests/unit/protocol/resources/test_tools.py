from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from intramuros.protocol.resources.tools import Tool, UrlSources, check_schema, source_type

TOOL: TypeAdapter[Any] = TypeAdapter(Tool)
TOOLSET = {"type": "agent_toolset_20260401"}
CUSTOM = {
    "type": "custom",
    "name": "look_up-1",
    "description": "d",
    "input_schema": {"type": "object"},
}


def builtin(**config: object) -> dict[str, object]:
    return {**TOOLSET, "configs": [config]}


@pytest.mark.parametrize(
    "tool",
    [
        TOOLSET,
        builtin(name="bash"),
        builtin(name="glob", type="glob", enabled=False, permission_policy={"type": "auto"}),
        builtin(name="web_fetch", max_content_tokens=1, allowed_domains=["example.com"]),
        builtin(name="web_search", blocked_domains=["example.com/x"]),
        {"type": "mcp_toolset", "mcp_server_name": "crm", "configs": [{"name": "any name"}]},
        CUSTOM,
        {**CUSTOM, "name": "x" * 128},
    ],
)
@pytest.mark.rule("c6_2", "c6_3", "c6_7", "R096", "R114")
def test_documented_forms_are_taken(tool: dict[str, object]) -> None:
    assert TOOL.validate_python(tool).type == tool["type"]


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "computer_20991231"},
        builtin(name="python"),
        builtin(name="bash", type="read"),
        builtin(name="bash", enabled="yes"),
        builtin(name="bash", permission_policy={"type": "never"}),
        builtin(name="bash", allowed_domains=["example.com"]),
        builtin(name="web_fetch", max_content_tokens=0),
        builtin(name="web_fetch", allowed_domains=[]),
        builtin(name="web_fetch", allowed_domains=["a.com"], blocked_domains=["b.com"]),
        builtin(name="web_fetch", allowed_domains=["example.com/path"]),
        builtin(name="web_search", user_location={"type": "approximate", "country": "ch"}),
        {**TOOLSET, "configs": [{"name": "bash"}, {"name": "bash"}]},
        {"type": "mcp_toolset", "mcp_server_name": "crm", "configs": [{"name": "x", "type": "x"}]},
        {"type": "mcp_toolset", "mcp_server_name": "", "configs": []},
        {**CUSTOM, "description": ""},
        {**CUSTOM, "name": "bash"},
        {**CUSTOM, "name": "mcp__x"},
        {**CUSTOM, "name": "a b"},
        {**CUSTOM, "name": "x" * 129},
        {**CUSTOM, "name": "x\n"},
        {**CUSTOM, "permission_policy": {"type": "auto"}},
    ],
)
@pytest.mark.rule(
    "c6_2", "c6_3", "c6_7", "c6_9", "c6_15", "c6_16", "c6_19", "c6_22", "R096", "R114"
)
def test_everything_else_is_refused(tool: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TOOL.validate_python(tool)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "x-own": {"deep": [1]}, "additionalProperties": False},
        {"type": "object", "properties": {"a.b-c_1": {"oneOf": [{"type": "null"}]}}},
        {"type": "object", "properties": {"a": {"enum": [{"$ref": "data"}], "default": {}}}},
        {"type": "object", "properties": None, "required": None},
    ],
)
@pytest.mark.rule("c6_17", "c6_18")
def test_schemas_keep_keywords_that_do_no_harm(schema: dict[str, Any]) -> None:
    assert check_schema(schema) == schema


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "string"},
        {"type": "object", "anyOf": []},
        {"type": "object", "properties": []},
        {"type": "object", "properties": {"a b": {}}},
        {"type": "object", "properties": {"x" * 65: {}}},
        {"type": "object", "required": "a"},
        {"type": "object", "$defs": {}, "properties": {"a": {"$ref": "#/$defs/x"}}},
        {"type": "object", "properties": {"a": {"items": [{"$dynamicRef": "#x"}]}}},
    ],
)
@pytest.mark.rule("c6_15", "c6_17", "c6_18")
def test_schemas_that_models_cannot_use_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_schema(schema)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.sampled_from(["$ref", "properties", "a", "enum"]), children)
    ),
    max_leaves=20,
)


@given(schema=st.dictionaries(st.sampled_from(["type", "properties", "x"]), JSON))
@pytest.mark.rule("c6_17")
def test_no_reference_passes_outside_data(schema: dict[str, Any]) -> None:
    schema["type"] = "object"
    try:
        check_schema(schema)
    except ValueError:
        return
    assert not refers(schema)


def refers(value: object) -> bool:
    if isinstance(value, list):
        return any(refers(child) for child in value)
    if isinstance(value, dict):
        return "$ref" in value or any(refers(v) for k, v in value.items() if k != "enum")
    return False


@pytest.mark.rule("c6_23")
def test_url_sources_take_both_forms_but_not_nothing_at_all() -> None:
    some = UrlSources.model_validate(
        {
            "user_input": "none",
            "client_tool_results": {
                "type": "except",
                "tools": [{"type": "tool_reference", "name": "x"}],
            },
            "server_tool_results": {"type": "none"},
        }
    )
    assert [source_type(s) for s in (some.user_input, some.server_tool_results, None, "all")] == [
        "none",
        "none",
        None,
        "all",
    ]
    reference = {"type": "tool_reference", "name": "x"}
    for bad in (
        dict.fromkeys(("user_input", "client_tool_results", "server_tool_results"), "none"),
        {"user_input": {"type": "only", "tools": [reference]}},
        {"client_tool_results": {"type": "only", "tools": []}},
        {"client_tool_results": {"type": "only", "tools": [reference, reference]}},
        {"server_tool_results": {"type": "only", "tools": [reference]}},
    ):
        with pytest.raises(ValidationError):
            UrlSources.model_validate(bad)
