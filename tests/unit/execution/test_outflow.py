from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.outflow import (
    EMPTY,
    MAX_RESULT_BYTES,
    release,
    without_spill,
)
from intramuros.execution.sandbox.base import ToolOutcome
from intramuros.kernel.redact import Redactor
from intramuros.protocol.spills import DIRECTORY, MAX_TEXT_CHARS

SECRET = "ghp_" + "a" * 36
REDACTOR = Redactor()


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def image(data: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def test_text_passes_with_its_secrets_masked() -> None:
    filtered = release(ToolOutcome.text(f"a {SECRET} b {SECRET}"), REDACTOR, "c")
    assert filtered.content == [text("a [masked github token] b [masked github token]")]
    assert filtered.masked == 2
    assert filtered.spill is None


@pytest.mark.rule("c22_14")
def test_no_output_is_said() -> None:
    for outcome in (ToolOutcome([]), ToolOutcome.text(""), ToolOutcome([{"type": "text"}])):
        assert release(outcome, REDACTOR, "c").content == [text(EMPTY)]


def test_images_pass_as_they_are_and_documents_are_masked() -> None:
    document = {
        "type": "document",
        "title": SECRET,
        "source": {"type": "text", "media_type": "text/plain", "data": SECRET},
    }
    filtered = release(ToolOutcome([image(SECRET), document]), REDACTOR, "c")
    assert filtered.content[0] == image(SECRET)
    assert SECRET not in str(filtered.content[1])
    assert filtered.masked == 2


@pytest.mark.rule("c22_14")
def test_foreign_blocks_are_shown_as_text() -> None:
    filtered = release(ToolOutcome([{"type": "tool_reference", "name": SECRET}]), REDACTOR, "c")
    assert filtered.content == [text('{"type": "tool_reference", "name": "[masked github token]"}')]


def test_what_utf8_cannot_say_is_replaced() -> None:
    filtered = release(ToolOutcome.text("a\ud800b\0c"), REDACTOR, "c")
    assert filtered.content == [text("a?b\ufffdc")]


def test_long_text_is_previewed_and_spilled_whole() -> None:
    long = "x" * MAX_TEXT_CHARS + SECRET
    outcome = ToolOutcome([text(long), image("aGk="), text("end")])
    filtered = release(outcome, REDACTOR, "sevt_1")
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
        shown = release(ToolOutcome.text(long), REDACTOR, "c").content[0]["text"]
        assert "ghp_" not in shown
        assert "aaaa" not in shown


def test_a_spill_name_cannot_leave_its_directory() -> None:
    long = ToolOutcome.text("x" * (MAX_TEXT_CHARS + 1))
    for call_id in ("../../etc/passwd", "/abs", "", "a/b\0", "n" * 200):
        spill = release(long, REDACTOR, call_id).spill
        assert spill is not None
        assert spill.path.startswith(DIRECTORY + "/")
        assert "/" not in spill.path.removeprefix(DIRECTORY + "/")
        assert len(spill.path) < 120


def test_a_failed_spill_is_said() -> None:
    filtered = release(ToolOutcome.text("x" * (MAX_TEXT_CHARS + 1)), REDACTOR, "c")
    noted = without_spill(filtered, "disk full")
    assert noted.spill is None
    assert "disk full" in noted.content[-1]["text"]


def test_a_result_too_large_for_the_wire_is_withheld() -> None:
    filtered = release(ToolOutcome([image("A" * MAX_RESULT_BYTES)]), REDACTOR, "c")
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
    filtered = release(ToolOutcome(blocks), REDACTOR, "c")
    assert filtered.content
    for block in filtered.content:
        assert block["type"] in ("text", "image", "document", "search_result")
        if block["type"] == "text":
            assert block["text"]
            block["text"].encode()
