from intramuros.control.session.blocks import changed, texts, told

TEXT = {"type": "text", "text": "a"}
PAGE = {"type": "document", "source": {"type": "text", "data": "b"}, "context": "from x.com"}
PDF = {"type": "document", "source": {"type": "base64", "data": "JVBE"}}
HIT = {
    "type": "search_result",
    "source": "https://x.com",
    "content": [{"type": "text", "text": "c"}],
}
RESULT = {"type": "tool_result", "content": [TEXT, PAGE, PDF, HIT, {"type": "image"}]}


def test_every_text_of_a_block_is_found() -> None:
    assert list(texts(RESULT)) == ["a", "b", "c"]
    assert list(texts({"type": "tool_result"})) == []
    assert list(texts({"type": "image", "source": {"type": "text", "data": "no"}})) == []


def test_every_text_is_changed_and_nothing_else() -> None:
    upper = changed(RESULT, str.upper)
    assert list(texts(upper)) == ["A", "B", "C"]
    assert upper["content"][2] == PDF
    assert upper["content"][3]["source"] == "https://x.com"
    assert list(texts(RESULT)) == ["a", "b", "c"], "the old one stays"


def test_a_block_is_told_with_where_it_is_from() -> None:
    assert told(TEXT) == "a"
    assert told(PAGE) == "from x.com\nb"
    assert told(HIT) == "https://x.com\nc"
    assert told(PDF) == "[document]"
    assert told({"type": "image"}) == "[image]"
