import base64
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.outflow.views import views

NEEDLE = "needle-0123456789-needle"


def wrapped(data: bytes, width: int, end: str) -> str:
    text = base64.b64encode(data).decode()
    return end.join(text[at : at + width] for at in range(0, len(text), width))


ENCODINGS: dict[str, Callable[[str], str]] = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 without padding": lambda text: base64.b64encode(text.encode()).decode().rstrip("="),
    "base64 for urls": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 in lines": lambda text: wrapped(text.encode(), 76, "\n"),
    "base64 in lines of a mail": lambda text: wrapped(text.encode(), 64, "\r\n"),
    "base64 in an indented block": lambda text: wrapped(text.encode(), 64, "\n      "),
    "base64 in JSON": lambda text: json.dumps(wrapped(text.encode(), 76, "\n")),
    "base64 in parts of source": lambda text: wrapped(text.encode(), 60, '"\n  "'),
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    "hex with colons": lambda text: text.encode().hex(":"),
    "hex with spaces": lambda text: text.encode().hex(" ", 2),
    "hex for C": lambda text: "".join(f"\\x{byte:02x}" for byte in text.encode()),
    "hex as a list": lambda text: ", ".join(f"0x{byte:02x}" for byte in text.encode()),
    "percent": lambda text: quote(f"é{text}/", safe=""),
    "percent for all": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "unicode escapes": lambda text: "".join(f"\\u{ord(char):04x}" for char in text),
    "entities": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "hex entities": lambda text: "".join(f"&#x{ord(char):x};" for char in text),
}


@pytest.mark.parametrize("name", ENCODINGS)
@given(
    before=st.text("ab ,.:/é0", max_size=30),
    after=st.text("ab ,.:/é0", max_size=30),
    around=st.text("xyz =:é\n", max_size=5),
)
def test_an_encoding_is_undone_and_found_again(
    name: str, before: str, after: str, around: str
) -> None:
    encode = ENCODINGS[name]
    said = f"{around} {encode(before + NEEDLE + after)} {around}".encode()
    places = [
        view.place(at, at + len(NEEDLE))
        for view in views(said)
        if (at := view.data.find(NEEDLE.encode())) >= 0
    ]
    assert places, said
    for start, end in places:
        # Without it, nothing of it can be read any more: what is left decodes to the rest alone.
        rest = said[:start] + b" " * (end - start) + said[end:]
        assert not any(NEEDLE[2:-2].encode() in view.data for view in views(rest))
        assert len(rest) == len(said)
        # And not more is taken than what stood for it, but for a character at each end.
        assert end - start <= len(encode(NEEDLE)) + 24


@pytest.mark.parametrize("kind", ["utf-16-le", "utf-16-be"])
def test_wide_text_is_read(kind: str) -> None:
    said = b"\xff\xfe" + f"a {NEEDLE} b".encode(kind)
    (view,) = views(said)
    at = view.data.find(NEEDLE.encode())
    start, end = view.place(at, at + len(NEEDLE))
    assert said[start:end].replace(b"\0", b"") == NEEDLE.encode()


def test_ordinary_text_reads_as_itself_alone() -> None:
    for text in ("", "plain words only", "a" * 100, "0f" * 40, "x = y[3] // 4\n" * 20):
        assert [view.data for view in views(text.encode()) if NEEDLE.encode() in view.data] == []
    assert list(views(b"no encoding in sight, only words and 12 numbers")) == []


@given(data=st.binary(max_size=400))
def test_any_bytes_can_be_read(data: bytes) -> None:
    for view in views(data):
        for at in range(0, len(view.data), 7):
            start, end = view.place(at, min(at + 5, len(view.data)))
            assert 0 <= start <= end <= len(data)


@given(text=st.text("%\\ux&#;4a2fQUJD=\n\0 ", max_size=120))
def test_any_half_escape_can_be_read(text: str) -> None:
    data = text.encode()
    for view in views(data):
        for at in range(len(view.data)):
            start, end = view.place(at, at + 1)
            assert 0 <= start <= end <= len(data)
