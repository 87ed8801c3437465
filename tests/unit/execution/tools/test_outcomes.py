import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.tools.calls import Call
from intramuros.execution.tools.outcomes import ToolOutcome, decode_answer

BASH = Call("bash", "bash", {}, timeout_ms=1500)
READ = Call("read", "tool", {})


def shell(**fields: bytes) -> ToolOutcome:
    return decode_answer(BASH, {"state": b"done", "code": b"0", **fields})


def text(outcome: ToolOutcome) -> str:
    return outcome.content[0]["text"]


def test_output_loses_escapes_and_trailing_newlines_only() -> None:
    outcome = shell(output=b"\n\x1b[1;31mred\x1b[0m  \n\n")
    assert (text(outcome), outcome.is_error) == ("\nred  ", False)


def test_a_failing_command_is_an_error_of_its_output_alone() -> None:
    outcome = shell(output=b"oops\n", code=b"3")
    assert (text(outcome), outcome.is_error) == ("oops", True)


def test_nothing_reads_no_output() -> None:
    assert text(shell(output=b"")) == "(no output)"
    assert text(decode_answer(READ, {"text": b""})) == "(no output)"


def test_a_cut_output_says_so_first() -> None:
    assert text(shell(output=b"tail\n", truncated=b"1")) == "[output truncated]\ntail"


def test_timeouts_are_told_in_seconds() -> None:
    outcome = decode_answer(BASH, {"state": b"timeout", "output": b"partial"})
    assert text(outcome) == "bash: bash command timed out after 1.5s"
    assert outcome.is_error


def test_a_shell_that_died_leaves_its_last_words() -> None:
    outcome = decode_answer(BASH, {"state": b"died", "output": b" bye \n", "code": b"0"})
    assert (text(outcome), outcome.is_error) == ("bye", True)


def test_bytes_that_are_not_text_are_replaced() -> None:
    assert text(shell(output=b"\xff\xfe")) == "\ufffd\ufffd"


@pytest.mark.parametrize(
    ("media", "kind"), [("image/png", "image"), ("application/pdf", "document")]
)
def test_pictures_and_papers_become_blocks(media: str, kind: str) -> None:
    outcome = decode_answer(READ, {"media": media.encode(), "data": b"\x00\xff"})
    [block] = outcome.content
    assert block["type"] == kind
    assert block["source"]["media_type"] == media
    assert base64.b64decode(block["source"]["data"]) == b"\x00\xff"


def test_a_media_type_nobody_asked_for_is_an_error() -> None:
    assert decode_answer(READ, {"media": b"text/html", "data": b"x"}).is_error


def test_restarts_and_errors() -> None:
    assert text(decode_answer(Call("bash", "restart", {}), {})) == "bash session restarted"
    outcome = decode_answer(READ, {"error": b"read: x: is a directory"})
    assert (text(outcome), outcome.is_error) == ("read: x: is a directory", True)


@given(
    st.sampled_from([BASH, READ, Call("bash", "restart", {})]),
    st.dictionaries(
        st.sampled_from(["error", "state", "output", "code", "truncated", "text", "media", "data"]),
        st.binary(max_size=50),
    ),
)
def test_any_answer_becomes_an_outcome(call: Call, answer: dict[str, bytes]) -> None:
    outcome = decode_answer(call, answer)
    for block in outcome.content:
        assert block["type"] in ("text", "image", "document")
        assert block.get("text", "x")
