from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.inference.history import as_mcp_result, to_provider

USE = {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "look", "server_name": "docs"}
RESULT = {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "is_error": False, "content": "7"}
ASK = {"role": "user", "content": "go"}


def said(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def test_a_result_moves_to_a_message_of_its_own() -> None:
    after = {"type": "text", "text": "so"}
    call, answer, rest = to_provider([ASK, said({**USE, "input": {}}, RESULT, after)], {"docs"})[1:]
    assert call["content"] == [
        {"type": "tool_use", "id": "toolu_1", "name": "mcp__docs__look", "input": {}}
    ]
    assert answer["role"] == "user"
    assert answer["content"] == [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "7", "is_error": False}
    ]
    assert rest["content"] == [after]


def test_a_last_result_leads_the_next_user_message_or_stands_alone() -> None:
    joined = to_provider([ASK, said(USE, RESULT), ASK], {"docs"})
    assert [m["role"] for m in joined] == ["user", "assistant", "user"]
    assert [b["type"] for b in joined[-1]["content"]] == ["tool_result", "text"]
    paused = to_provider([ASK, said(USE, RESULT)], {"docs"})
    assert [m["role"] for m in paused] == ["user", "assistant", "user"]
    system = {"role": "system", "content": "note"}
    assert [m["role"] for m in to_provider([ASK, said(USE, RESULT), system], {"docs"})] == [
        "user",
        "assistant",
        "user",
        "system",
    ]


def test_other_servers_blocks_stay() -> None:
    messages = [ASK, said(USE, RESULT), ASK]
    assert to_provider(messages, {"crm"}) == messages


def test_callers_see_text_only() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    shown = as_mcp_result("toolu_1", [{"type": "text", "text": "a"}, image], is_error=True)
    assert [part["type"] for part in shown["content"]] == ["text", "text"]
    assert "image/png" in shown["content"][1]["text"]


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "id", "tool_use_id", "server_name", "x"]),
            inner | st.sampled_from(["assistant", "mcp_tool_use", "mcp_tool_result", "docs", "a"]),
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=4))
def test_whatever_callers_send_nothing_breaks_and_strangers_stay(messages: list[Any]) -> None:
    to_provider(messages, {"docs"})
    assert to_provider(messages, ()) == messages


def test_ids_and_names_of_any_shape_are_taken() -> None:
    odd = [{**USE, "id": ["x"], "server_name": ["docs"]}, {**RESULT, "tool_use_id": {}}]
    assert to_provider([said(*odd)], {"docs"}) == [said(*odd)]
    listed = [{**USE, "id": ["x"]}, {**RESULT, "tool_use_id": ["x"]}]
    assert [m["role"] for m in to_provider([said(*listed)], {"docs"})] == ["assistant", "user"]
