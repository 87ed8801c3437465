from typing import Any

from intramuros.control.session.withheld import KINDS, changed, digest, media, note
from intramuros.protocol.events import INBOUND

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
FILE = {"type": "document", "title": "Plan", "source": {"type": "file", "file_id": "file_1"}}
FOUND = {
    "type": "search_result",
    "source": "https://example.com/a",
    "title": "A",
    "content": [{"type": "text", "text": "…"}],
    "citations": {"enabled": True},
}
TEXT = {"type": "text", "text": "Look."}


def result(*content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": list(content)}


def test_a_block_is_known_whatever_the_order_of_its_members_and_with_a_breakpoint() -> None:
    turned = dict(reversed(IMAGE.items()))
    assert digest(IMAGE) == digest(turned) == digest({**IMAGE, "cache_control": {"type": "x"}})
    assert digest(IMAGE) != digest(FILE)


def test_media_is_found_in_messages_and_in_results() -> None:
    assert list(media([TEXT, IMAGE, result(TEXT, FILE), FOUND])) == [IMAGE, FILE, FOUND]
    assert list(media(None)) == list(media([result()])) == list(media("text")) == []


def test_the_words_say_what_was_there_and_why_it_is_missing() -> None:
    assert note(IMAGE, "too large")["text"].startswith(
        "[An image (image/png) was here. It is withheld, because the model provider refused it: "
        "too large."
    )
    assert "A document (Plan, file_1) was" in note(FILE, "no")["text"]
    assert "A search result (A, https://example.com/a) was" in note(FOUND, "no")["text"]
    long = {**FILE, "title": "x" * 5_000}
    assert len(note(long, "y" * 5_000)["text"]) < 1_200


def test_changes_reach_into_results_and_leave_the_rest_as_it_is() -> None:
    other = result(TEXT)
    blocks = [TEXT, result(TEXT, IMAGE), other, FILE]
    made = changed(
        blocks, lambda block: {"type": "text", "text": "-"} if block in (IMAGE,) else block
    )
    assert made == [TEXT, result(TEXT, {"type": "text", "text": "-"}), other, FILE]
    assert made[0] is TEXT
    assert made[2] is other, "results without a change are the same ones"
    assert blocks[1] == result(TEXT, IMAGE)


def test_everything_that_clients_can_send_beside_words_can_be_withheld() -> None:
    schema = str(INBOUND.json_schema())
    kinds = {kind for kind in ("image", "document", "search_result") if f"'{kind}'" in schema}
    assert kinds == KINDS
