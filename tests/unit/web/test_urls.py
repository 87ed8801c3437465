import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.web.urls import (
    MAX_REDIRECT_CHARS,
    MAX_URL_CHARS,
    BadUrl,
    join,
    names,
    parse,
)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://Example.com", "https://example.com/"),
        ("HTTP://x.com?q=1", "http://x.com/?q=1"),
        ("https://x.com:443/a", "https://x.com/a"),
        ("http://x.com:8080/a#part", "http://x.com:8080/a"),
        ("https://x.com./a", "https://x.com/a"),
        ("https://bücher.de/ä?q=ö", "https://xn--bcher-kva.de/%C3%A4?q=%C3%B6"),
        ("http://1.2.3.4/", "http://1.2.3.4/"),
        ("http://[2001:DB8::1]:81/", "http://[2001:db8::1]:81/"),
    ],
)
def test_a_url_has_one_spelling(text: str, url: str) -> None:
    assert parse(text).url == url
    assert parse(url).url == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "ftp://x.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "https:///a",
        "https://user@x.com/",
        "https://x.com:pw@y.com/",
        "https://x.com\\@y.com/",
        "https://x.com/a b",
        "https://x.com/\u200b",
        "https://x.com/\n",
        "https://x.com:0/",
        "https://x.com:99999/",
        "https://x..com/",
        "https://-x.com/",
        "https://x_y.com:x/",
        "http://127.1/",
        "http://0x7f.1/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://1.2.3.4.5/",
        "http://[::1%25eth0]/",
        "http://[::1/",
        "http://x%2ecom/",
        "https://" + "a." * 130 + "com/",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadUrl):
        parse(text, MAX_REDIRECT_CHARS)


def test_a_url_has_a_length() -> None:
    url = "https://x.com/".ljust(MAX_URL_CHARS, "a")
    assert parse(url).url == url
    with pytest.raises(BadUrl, match="longer"):
        parse(url + "a")


def test_redirects_are_read_against_the_page() -> None:
    base = parse("https://x.com/a/b?c")
    assert join(base, "../d").url == "https://x.com/d"
    assert join(base, "//y.com/e").url == "https://y.com/e"
    assert join(base, " http://z.com ").url == "http://z.com/"
    for bad in ("ftp://x.com/", "https://u@x.com/", "http://[", "\\\\y.com"):
        with pytest.raises(BadUrl):
            join(base, bad)


SAID = (
    "See (https://Example.com/a_(b)). Also [x](https://y.com/p?q=1), example.org/about! And "
    "http://plain.com/., me@mail.com, <https://angle.com/z>; https://bücher.de/x"
)


@pytest.mark.parametrize(
    ("url", "bare", "named"),
    [
        ("https://example.com/a_(b)", False, True),
        ("https://y.com/p?q=1", False, True),
        ("https://y.com/p", False, False),
        ("https://y.com/p?q=12", False, False),
        ("https://y.com/p?q=", False, False),
        ("https://example.org/about", True, True),
        ("https://example.org/about", False, False),
        ("http://example.org/about", True, True),
        ("https://example.org/abou", True, False),
        ("https://plain.com/", False, True),
        ("http://plain.com", False, True),
        ("http://y.com/p?q=1", False, False),
        ("https://angle.com/z", False, True),
        ("https://mail.com/", True, False),
        ("https://xn--bcher-kva.de/x", False, True),
        ("https://example.com:8443/a_(b)", False, False),
    ],
)
def test_texts_name_pages(url: str, bare: bool, named: bool) -> None:
    assert names(SAID, parse(url), bare=bare) is named


def test_hostile_texts_are_read_in_time() -> None:
    target = parse("https://x.com/a")
    for text in (
        "https://x.com/" + "](" * 20_000,
        "x.com" + "a." * 50_000,
        "x.com " + "https://" * 20_000,
        "x.com/a" + ")" * 50_000,
        "-".join(["x.com"] * 10_000),
    ):
        names(text, target, bare=True)


@given(st.text(max_size=80) | st.from_regex(r"\Ahttps?://[a-z.:@\[\]\\%0-9/?#]{1,30}\Z"))
def test_what_was_checked_is_what_is_fetched(text: str) -> None:
    try:
        target = parse(text)
    except BadUrl:
        return
    seen = httpx2.URL(target.url)
    assert seen.raw_host.decode("ascii").strip("[]") == target.host
    assert (seen.port or {"http": 80, "https": 443}[seen.scheme]) == target.port
    assert not seen.userinfo
    assert parse(target.url, MAX_REDIRECT_CHARS) == target


@given(st.text(max_size=300))
def test_any_text_can_be_searched(text: str) -> None:
    names(text + " https://x.com/a " + text, parse("https://x.com/a"), bare=True)
