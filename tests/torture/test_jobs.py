"""The model does what it was asked, once, from the conversation alone."""

from itertools import count
from typing import Any

from tests.torture import jobs

TOOLS = [{"name": "bash"}, {"name": "probe"}, {"name": "mcp__docs__touch"}]


def play(messages: list[Any]) -> list[list[str]]:
    """Answer until the model is done; returns the names of the tools of each reply."""
    numbers = count()
    replies = []
    while True:
        body = {"messages": messages, "tools": TOOLS}
        made = jobs.answer(body, lambda: f"n{next(numbers)}00", 1)
        messages.append({"role": "assistant", "content": made.content})
        names = [block["name"] for block in made.content if block["type"] == "tool_use"]
        for block in made.content:
            if block["type"] == "tool_use":
                assert jobs.nonce_of(block["input"]) in made.nonces
        if not names:
            return replies
        replies.append(names)
        results = [{"type": "tool_result", "content": "x"} for _ in names]
        messages.append({"role": "user", "content": results})


def ask(token: str, *steps: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": jobs.ask(token, steps)}]}


def test_each_step_is_one_reply() -> None:
    messages = [ask("t1", "bash", "pair", "mcp", "custom", "pry")]
    assert play(messages) == [
        ["bash"],
        ["bash", "probe"],
        ["mcp__docs__touch"],
        ["probe"],
        ["bash"],
    ]
    assert jobs.said_done(messages[-1]["content"][0]["text"]) == ["t1"]


def test_a_message_that_came_twice_is_done_once_and_the_next_begins_anew() -> None:
    messages = [ask("t1", "bash"), ask("t1", "bash")]
    assert play(messages) == [["bash"]]
    messages.append(ask("t2", "custom"))
    assert play(messages) == [["probe"]]
    assert jobs.said_done(messages[-1]["content"][0]["text"]) == ["t2"]


def test_without_a_private_server_the_step_is_done_another_way() -> None:
    made = jobs.answer({"messages": [ask("t", "mcp")], "tools": []}, lambda: "n100", 1)
    assert [block["name"] for block in made.content] == ["bash"]


def test_what_is_not_ours_has_no_nonce() -> None:
    assert jobs.nonce_of({"command": "ls"}) is None
    assert jobs.said_done("well done") == []
