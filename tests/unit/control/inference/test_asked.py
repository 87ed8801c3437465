from typing import Any

import pytest

from intramuros.control.inference.asked import asked
from intramuros.kernel.errors import InvalidRequest

TEXT = {"type": "text", "text": "hi"}
PLAIN: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "hi"}],
}


def test_a_whole_request_is_read() -> None:
    tool = {"name": "f", "input_schema": {"type": "object"}}
    said = [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "x"}]},
    ]
    read = asked(
        {
            **PLAIN,
            "messages": said,
            "system": [TEXT, {**TEXT, "text": "ho", "cache_control": {"type": "ephemeral"}}],
            "tools": [tool],
            "temperature": 0,
            "metadata": {"user_id": "u"},
            "output_config": {"effort": "low"},
        }
    )
    assert read.messages == [{"role": "user", "content": [TEXT]}, *said[1:]]
    assert (read.system, read.tools, read.max_tokens) == ("hi\n\nho", [tool], 9)
    assert read.effort == "low"
    assert read.options == {"temperature": 0, "output_config": {"effort": "low"}}
    assert asked(PLAIN).system is None


def block(**members: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [members]}]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "content.0.type"),
        (block(type="text"), "content.0.text"),
        (block(type="tool_use", id="a", name="f", input="x"), "input"),
        (block(type="tool_result"), "tool_use_id"),
        (block(type="tool_result", tool_use_id="a", content=[{"type": "text"}]), "content.0.text"),
        (block(type="image"), "source"),
        (block(type="image", source={"type": "base64", "data": "x"}), "media_type"),
        (block(type="document", source={"type": "text", "data": 1}), "data"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"system": 1}, "system"),
        ({"system": [{"type": "image", "source": {"type": "file"}}]}, "system"),
        ({"tools": "x"}, "tools"),
        ({"tools": [{"name": 1}]}, "tools.0.name"),
        ({"tools": [{"name": "w", "type": "web_search_20250305"}]}, "custom tools only"),
        ({"tools": [{"name": "w", "input_schema": "x"}]}, "input_schema"),
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
    ],
)
def test_what_cannot_be_passed_on_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        asked({**PLAIN, **change})


def test_results_do_not_nest_for_ever() -> None:
    inner: Any = TEXT
    for _ in range(99):
        inner = {"type": "tool_result", "tool_use_id": "a", "content": [inner]}
    with pytest.raises(InvalidRequest, match="expected"):
        asked({**PLAIN, **block(**inner)})
