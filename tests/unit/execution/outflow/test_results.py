import base64
import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.outflow.findings import Action
from intramuros.execution.outflow.policy import MAX_RESULT_BYTES
from intramuros.execution.outflow.results import EMPTY, NOTHING, Filtered, clear, without_spill
from intramuros.execution.outflow.results import release as released
from intramuros.execution.sandbox.base import ToolOutcome
from intramuros.protocol.spills import DIRECTORY, MAX_TEXT_CHARS
from tests.fakes.outflow import gate

SECRET = "ghp_" + "a" * 36
EYES = gate().eyes()


def release(outcome: ToolOutcome, call_id: str) -> Filtered:
    return released(outcome, EYES, call_id, MAX_RESULT_BYTES)


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def image(data: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


# One transparent pixel.
PIXEL = encoded(bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"))


def test_text_passes_with_its_secrets_masked() -> None:
    filtered = release(ToolOutcome.text(f"a {SECRET} b {SECRET}"), "c")
    assert filtered.content == [text("a [masked github token] b [masked github token]")]
    assert filtered.masked == 2
    assert filtered.spill is None


@pytest.mark.rule("c22_14")
def test_no_output_is_said() -> None:
    for outcome in (ToolOutcome([]), ToolOutcome.text(""), ToolOutcome([{"type": "text"}])):
        assert release(outcome, "c").content == [text(EMPTY)]


def test_documents_are_masked_and_clean_images_pass_as_they_are() -> None:
    document = {
        "type": "document",
        "title": SECRET,
        "source": {"type": "text", "media_type": "text/plain", "data": SECRET},
    }
    filtered = release(ToolOutcome([image(PIXEL), document]), "c")
    assert filtered.content[0] == image(PIXEL)
    assert SECRET not in str(filtered.content[1])
    assert filtered.content[1]["source"]["media_type"] == "text/plain"
    assert filtered.masked == 2


@pytest.mark.parametrize("data", [encoded(b"\x89PNG" + SECRET.encode() + b"\0\xff"), SECRET])
def test_an_image_that_holds_a_secret_is_left_out(data: str) -> None:
    filtered = release(ToolOutcome([text("seen"), image(data)]), "c")
    assert filtered.content == [text("seen"), text("[image withheld: it holds github token]")]
    assert dict(filtered.found.counts) == {"github token": 1}


def test_a_block_with_a_secret_for_a_name_is_left_out() -> None:
    outcome = ToolOutcome([{"type": "search_result", "content": [{SECRET: 1}]}])
    assert release(outcome, "c").content == [
        text("[search_result withheld: it holds github token]")
    ]


def test_a_secret_cut_over_blocks_is_masked_in_all_of_them() -> None:
    for first in range(1, len(SECRET)):
        for second in {first, min(first + 7, len(SECRET) - 1)}:
            parts = [f"a {SECRET[:first]}", SECRET[first:second], f"{SECRET[second:]} b"]
            shown = release(ToolOutcome([text(part) for part in parts if part]), "c").content
            joined = "".join(block["text"] for block in shown)
            assert "aaaa" not in joined, (first, second, joined)
            assert joined.startswith("a [masked github token]")
            assert joined.endswith(" b")


def test_a_secret_of_lines_over_blocks_is_masked() -> None:
    lines = ["-----BEGIN PRIVATE KEY-----", *["QUJD" * 16] * 3, "-----END PRIVATE KEY-----"]
    shown = release(ToolOutcome([text(line) for line in lines]), "c").content
    assert all(block["text"] == "[masked private key]" for block in shown)


def test_what_is_blocked_leaves_nothing_but_the_rule() -> None:
    eyes = replace(EYES, action=lambda _rule: Action.BLOCK)
    filtered = released(ToolOutcome.text(f"context {SECRET}"), eyes, "c", MAX_RESULT_BYTES)
    assert filtered.withheld
    (block,) = filtered.content
    assert "github token (1)" in block["text"]
    assert "context" not in block["text"]
    assert SECRET not in block["text"]
    assert clear(f"context {SECRET}", eyes).text is None


def test_what_is_asked_about_is_shown_masked_and_allowed_whole() -> None:
    eyes = replace(EYES, action=lambda rule: Action.ASK if rule == "github token" else Action.MASK)
    said = f"{SECRET} AKIAIOSFODNN7EXAMPLE"
    filtered = released(ToolOutcome.text(said), eyes, "c", MAX_RESULT_BYTES)
    assert filtered.content == [text("[masked github token] [masked aws key]")]
    assert filtered.allowed == [text(f"{SECRET} [masked aws key]")]
    cleared = clear(said, eyes)
    assert (cleared.text, cleared.allowed) == (
        "[masked github token] [masked aws key]",
        f"{SECRET} [masked aws key]",
    )


def test_what_passes_is_counted_and_not_masked() -> None:
    eyes = replace(EYES, action=lambda _rule: Action.PASS)
    filtered = released(ToolOutcome.text(SECRET), eyes, "c", MAX_RESULT_BYTES)
    assert filtered.content == [text(SECRET)]
    assert filtered.found.fields()["rules"] == {"github token": 1}
    assert filtered.masked == 0


def test_the_record_gets_digests_and_no_secret() -> None:
    fields = release(ToolOutcome.text(f"{SECRET} {SECRET}"), "c").found.fields()
    assert fields == {
        "masked": 2,
        "rules": {"github token": 2},
        "found": [gate().digest(SECRET.encode())],
    }
    assert hashlib.sha256(SECRET.encode()).hexdigest()[:32] not in str(fields)
    assert NOTHING.fields() == {"masked": 0}


@pytest.mark.rule("c22_14")
def test_foreign_blocks_are_shown_as_text() -> None:
    filtered = release(ToolOutcome([{"type": "tool_reference", "name": SECRET}]), "c")
    assert filtered.content == [text('{"type": "tool_reference", "name": "[masked github token]"}')]


def test_what_utf8_cannot_say_is_replaced() -> None:
    filtered = release(ToolOutcome.text("a\ud800b\0c"), "c")
    assert filtered.content == [text("a?b\ufffdc")]


def test_long_text_is_previewed_and_spilled_whole() -> None:
    long = "x" * MAX_TEXT_CHARS + SECRET
    outcome = ToolOutcome([text(long), image("aGk="), text("end")])
    filtered = release(outcome, "sevt_1")
    assert filtered.spill is not None
    assert filtered.spill.path == f"{DIRECTORY}/sevt_1.txt"
    assert filtered.spill.text == f"{long}\nend"
    preview, kept = filtered.content
    assert kept == image("aGk=")
    assert filtered.spill.path in preview["text"]
    assert len(preview["text"]) < 11_000


def test_no_part_of_a_secret_survives_at_the_border_of_a_preview() -> None:
    for offset in range(50):
        long = "y " * 3_975 + "y" * (49 - offset) + " " + SECRET + " " + "z" * MAX_TEXT_CHARS
        shown = release(ToolOutcome.text(long), "c").content[0]["text"]
        assert "ghp_" not in shown
        assert "aaaa" not in shown


def test_a_spill_name_cannot_leave_its_directory() -> None:
    long = ToolOutcome.text("x" * (MAX_TEXT_CHARS + 1))
    for call_id in ("../../etc/passwd", "/abs", "", "a/b\0", "n" * 200):
        spill = release(long, call_id).spill
        assert spill is not None
        assert spill.path.startswith(DIRECTORY + "/")
        assert "/" not in spill.path.removeprefix(DIRECTORY + "/")
        assert len(spill.path) < 120


def test_a_failed_spill_is_said() -> None:
    filtered = release(ToolOutcome.text("x" * (MAX_TEXT_CHARS + 1)), "c")
    noted = without_spill(filtered, "disk full")
    assert noted.spill is None
    assert "disk full" in noted.content[-1]["text"]


def test_a_result_too_large_for_the_wire_is_withheld() -> None:
    filtered = release(ToolOutcome([image("A" * MAX_RESULT_BYTES)]), "c")
    assert "withheld" in filtered.content[0]["text"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    blocks=st.lists(
        st.dictionaries(st.sampled_from(["type", "text", "source", "x"]), JSON), max_size=4
    )
)
def test_any_blocks_become_something_that_can_be_sent(blocks: list[dict[str, Any]]) -> None:
    filtered = release(ToolOutcome(blocks), "c")
    assert filtered.content
    for block in filtered.content:
        assert block["type"] in ("text", "image", "document", "search_result")
        if block["type"] == "text":
            assert block["text"]
            block["text"].encode()
