from typing import Any

from intramuros.control.model.thoughts import thoughtless, thoughts, without_thoughts

THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s"}
SECRET = {"type": "redacted_thinking", "data": "EmwK"}
TEXT = {"type": "text", "text": "so"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "x", "input": {}}


def said(*content: Any, role: str = "assistant") -> dict[str, Any]:
    return {"role": role, "content": list(content)}


def test_thoughts_are_found_in_replies_alone() -> None:
    talk = [said(THOUGHT, role="user"), said(THOUGHT, TEXT, SECRET, CALL), said(TEXT)]
    assert list(thoughts(talk)) == [THOUGHT, SECRET]
    assert list(thoughts([{"role": "assistant", "content": "words"}])) == []


def test_what_is_left_is_as_it_was_said() -> None:
    whole = said(THOUGHT, TEXT, SECRET, CALL)
    assert thoughtless(whole) == said(TEXT, CALL)
    assert whole == said(THOUGHT, TEXT, SECRET, CALL)
    plain = said(TEXT)
    assert thoughtless(plain) is plain
    user = said(THOUGHT, role="user")
    assert thoughtless(user) is user
    assert thoughtless(said(THOUGHT, SECRET)) is None


def test_a_reply_of_nothing_but_thoughts_is_left_out() -> None:
    words = {"role": "assistant", "content": "words"}
    talk = [said(TEXT, role="user"), said(THOUGHT), words, said(SECRET, TEXT)]
    assert without_thoughts(talk) == [said(TEXT, role="user"), words, said(TEXT)]
