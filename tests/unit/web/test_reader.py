import base64
from collections.abc import Callable
from typing import Any

import pytest

from intramuros.web import reader
from intramuros.web.reader import MAX_CHARS, Body, Reader, Unreadable, encoding

pytestmark = pytest.mark.anyio

URL = "https://x.com/a"
READ = Reader()


async def read(
    data: bytes | str, content_type: str = "text/html", tokens: int | None = None, **more: Any
) -> dict[str, Any]:
    raw = data.encode() if isinstance(data, str) else data
    return dict(await READ.document(Body(URL, content_type, raw, **more), tokens))


async def test_html_becomes_a_document_with_its_title() -> None:
    shown = await read("<title>T</title><p>hello <a href=b>there</a>")
    assert shown["type"] == "document"
    assert shown["title"] == "T"
    assert shown["source"] == {
        "type": "text",
        "media_type": "text/plain",
        "data": "hello [there](https://x.com/b)",
    }


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "text/csv", "application/json", "application/ld+json", "image/svg+xml", ""],
)
async def test_other_text_stays_as_it_is(kind: str) -> None:
    assert (await read("<a> & b", kind))["source"]["data"] == "<a> & b"


async def test_a_pdf_stays_a_pdf() -> None:
    shown = await read(b"%PDF-1.7 rest", "application/pdf", tokens=1)
    assert shown["source"]["media_type"] == "application/pdf"
    assert base64.b64decode(shown["source"]["data"]) == b"%PDF-1.7 rest"


@pytest.mark.parametrize(
    ("data", "kind", "why"),
    [
        (b"\x89PNG", "image/png", "image/png"),
        (b"PK\x03\x04", "application/zip", "application/zip"),
        (b"MZ\0\0", "text/plain", "text/plain"),
        (b"\0\1", "", "no known type"),
        (b"<html>", "application/pdf", "is none"),
    ],
)
async def test_what_no_model_reads_is_refused(data: bytes, kind: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        await read(data, kind)


async def test_c6_22_text_is_cut_to_the_agents_tokens_and_pdf_is_not() -> None:
    text = (await read("a" * 1000, "text/plain", tokens=10))["source"]["data"]
    assert text == "a" * 40 + "\n[cut: 960 of 1000 characters are not shown]"
    wide = (await read("日" * 100, "text/plain", tokens=10))["source"]["data"]
    assert wide.startswith("日" * 13 + "\n[cut: 87")
    html = (await read("<p>" + "b" * 1000, tokens=10))["source"]["data"]
    assert html.startswith("b" * 40 + "\n[cut: 960 of 1000")


async def test_text_is_cut_at_the_servers_limit() -> None:
    text = (await read("a" * (MAX_CHARS + 5), "text/plain"))["source"]["data"]
    assert text.endswith(f"[cut: 5 of {MAX_CHARS + 5} characters are not shown]")
    assert (await read("", "text/plain"))["source"]["data"] == "(no text)"


async def test_a_body_that_was_not_read_to_its_end_says_so() -> None:
    text = (await read("a", "text/plain", whole=False))["source"]["data"]
    assert "longer than the 1 bytes" in text
    with pytest.raises(Unreadable, match="larger"):
        await read(b"%PDF-1", "application/pdf", whole=False)


@pytest.mark.parametrize(
    ("data", "kind", "codec"),
    [
        (b"x", "text/html", "utf-8"),
        (b"x", "text/html; charset=ISO-8859-1", "cp1252"),
        (b"x", 'text/plain; charset="windows-1251"', "cp1251"),
        (b"<meta charset=shift_jis>", "text/html", "cp932"),
        (b'<meta http-equiv=x content="text/html; charset=euc-kr">', "text/html", "euc-kr"),
        (b"<meta charset=utf-16>", "text/html", "utf-8"),
        (b"<meta charset=shift_jis>", "text/plain", "utf-8"),
        (b"\xef\xbb\xbfx", "text/html; charset=koi8-r", "utf-8-sig"),
        (b"\xff\xfex\0", "text/plain", "utf-16"),
        (b"x", "text/plain; charset=zlib", "utf-8"),
        (b"x", "text/plain; charset=unicode_escape", "utf-8"),
        (b"x", "text/plain; charset=utf-7", "utf-8"),
    ],
)
def test_only_known_encodings_are_used(data: bytes, kind: str, codec: str) -> None:
    assert encoding(Body(URL, kind, data)) == codec


async def test_wrong_encodings_lose_characters_not_pages() -> None:
    assert (await read(b"a\xff\xfeb", "text/plain; charset=utf-8"))["source"]["data"] == "a��b"
    page = await read("日本".encode("cp932"), "text/html; charset=sjis")
    assert page["source"]["data"] == "日本"
    assert (await read("hé".encode("utf-16"), "text/plain"))["source"]["data"] == "hé"


@pytest.mark.parametrize(
    "hostile",
    [
        lambda: "<div>" * 20_000,
        lambda: "<a><p>" * 5_000,
        lambda: "<p " + " ".join(f"a{n}=1" for n in range(20_000)) + ">",
        lambda: "<!--" * 50_000,
        lambda: "&#x1F600;" * 20_000,
    ],
)
async def test_odd_pages_are_read(hostile: Callable[[], str]) -> None:
    assert (await read(hostile()))["type"] == "document"


async def test_a_page_that_takes_too_long_is_given_up() -> None:
    slow = Reader(read_s=0.5)
    with pytest.raises(Unreadable, match="too much"):
        await slow.document(Body(URL, "text/html", b"<" * 1_500_000), None)


async def test_a_reader_that_dies_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader.inside, "__file__", "/nonexistent.py")
    for page in ("<p>x", "<p>" + "x" * 1_000_000):  # it hangs up while it is told of the page, too
        with pytest.raises(Unreadable, match="too much"):
            await read(page)
