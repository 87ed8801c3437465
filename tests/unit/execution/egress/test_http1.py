import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.egress.http1 import (
    MAX_HEADERS,
    Head,
    Place,
    Refused,
    check_raw,
    end_to_end,
    plain_answer,
    read_head,
    request_headers,
)

PLACE = Place("api.test", 443, "https")


def parse(raw: bytes, place: Place = PLACE) -> Head:
    check_raw(raw)
    http = h11.Connection(h11.SERVER)
    http.receive_data(raw)
    try:
        request = http.next_event()
    except h11.RemoteProtocolError as error:
        raise Refused("malformed", str(error)) from error
    assert isinstance(request, h11.Request)
    return read_head(request, place)


def head(*lines: str, first: str = "GET /a/b?q=1 HTTP/1.1", host: str = "api.test") -> bytes:
    hosts = [f"Host: {host}"] if host else []
    return "\r\n".join([first, *hosts, *lines, "", ""]).encode("latin-1")


def rule(raw: bytes, place: Place = PLACE) -> str:
    with pytest.raises(Refused) as caught:
        parse(raw, place)
    assert 400 <= caught.value.status < 500
    return caught.value.rule


def test_a_plain_request_is_read() -> None:
    found = parse(head("Accept: */*", "Content-Length: 5", first="POST /a/b?q=1 HTTP/1.1"))
    assert (found.method, found.target, found.path) == (b"POST", b"/a/b?q=1", "/a/b")
    assert found.length == 5
    assert found.header(b"accept") == b"*/*"
    assert found.header(b"nothing") == b""


@pytest.mark.parametrize(
    "host", ["api.test", "API.test", "api.test:443", "api.test.", "api.test.:443"]
)
def test_host_may_say_the_name_in_its_spellings(host: str) -> None:
    assert dict(request_headers(parse(head(host=host)), PLACE))[b"host"] == b"api.test"


@pytest.mark.parametrize(
    "host", ["evil.test", "api.test:80", "api.test@evil.test", "evil.test api.test", "x.api.test",
             "127.0.0.1", "api.test:443:1", "api.test%00"],
)  # fmt: skip
def test_host_that_is_another_name_is_refused(host: str) -> None:
    assert rule(head(host=host)) in {"host_mismatch", "malformed"}


def test_exactly_one_host_is_needed() -> None:
    assert rule(head("Host: api.test")) == "malformed"
    assert rule(head(first="GET / HTTP/1.0", host="")) == "malformed"


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 3", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 3"],
        ["Content-Length: 3", "Content-Length: 4"],
        ["Content-Length: 3", "content-length: 3"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: identity"],
        ["Content-Length: +3"],
        ["Content-Length: 3, 3"],
        ["Content-Length: 99999999999999999999999"],
    ],
)
def test_a_length_that_may_be_read_in_two_ways_is_refused(lines: list[str]) -> None:
    assert rule(head(*lines, first="POST / HTTP/1.1")) in {"ambiguous_length", "malformed"}


def test_chunks_need_the_version_that_has_them() -> None:
    raw = head("Transfer-Encoding: chunked", first="POST / HTTP/1.0")
    assert rule(raw) in {"ambiguous_length", "malformed"}


@pytest.mark.parametrize("fold", [" x", "\tx"])
def test_folded_headers_are_refused(fold: str) -> None:
    assert rule(head("X-A: 1", fold)) == "folded_header"


@pytest.mark.parametrize(
    "bad",
    [
        b"GET / HTTP/1.1\nHost: api.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: api.test\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: api.test\r\nX: a\0b\r\n\r\n",
    ],
)
def test_bare_line_ends_and_nul_are_refused(bad: bytes) -> None:
    assert rule(bad) == "malformed"


def test_too_many_headers_are_refused() -> None:
    assert rule(head(*[f"X-{n}: 1" for n in range(MAX_HEADERS + 1)])) == "too_many_headers"


@pytest.mark.parametrize(
    "target",
    [
        "http://evil.test/",
        "https://evil.test/",
        "http://api.test/",
        "https://api.test@evil.test/",
        "https://evil.test?/api.test/",
        "https://api.test:80/",
        "ftp://api.test/",
        "api.test:443",
        "//",
        "a/b",
        "*",
    ],
)
def test_a_target_for_another_host_is_refused(target: str) -> None:
    if target == "//":
        assert parse(head(first="GET // HTTP/1.1")).target == b"//"
        return
    assert rule(head(first=f"GET {target} HTTP/1.1")) == "absolute_form"


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("https://api.test/x?y=/z", b"/x?y=/z"),
        ("HTTPS://API.test:443/x", b"/x"),
        ("https://api.test", b"/"),
        ("https://api.test?q=/1", b"/?q=/1"),
    ],
)
def test_a_target_with_this_very_host_becomes_a_path(target: str, meant: bytes) -> None:
    assert parse(head(first=f"GET {target} HTTP/1.1")).target == meant


def test_a_star_is_for_options_alone() -> None:
    assert parse(head(first="OPTIONS * HTTP/1.1")).target == b"*"


def test_a_fragment_is_refused() -> None:
    assert rule(head(first="GET /a#b HTTP/1.1")) == "malformed"


def test_connect_and_trace_are_refused() -> None:
    assert rule(head(first="CONNECT api.test:443 HTTP/1.1")) == "connect"
    assert rule(head(first="TRACE / HTTP/1.1")) == "trace"


@pytest.mark.parametrize(
    "lines",
    [
        ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"],
        ["Connection: Upgrade", "Upgrade: h2c"],
        ["HTTP2-Settings: AAMAAABk"],
        ["Connection: Upgrade", "Upgrade: websocket, h2c"],
        ["Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"],
        ["Connection: Upgrade", "Upgrade: TLS/1.0"],
    ],
)
def test_no_upgrade_but_to_websocket(lines: list[str]) -> None:
    assert rule(head(*lines)) == "upgrade"


def test_a_websocket_is_asked_for_by_get_and_without_a_body() -> None:
    lines = ["Connection: Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Key: x"]
    found = parse(head(*lines))
    assert found.websocket
    assert (b"upgrade", b"websocket") in request_headers(found, PLACE)
    assert rule(head(*lines, first="POST / HTTP/1.1")) == "upgrade"
    assert rule(head(*lines, "Content-Length: 3")) == "malformed"


def test_http2_by_prior_knowledge_is_refused() -> None:
    assert rule(b"PRI * HTTP/2.0\r\n\r\n") == "malformed"


def test_what_is_for_the_next_hop_stays_here() -> None:
    raw = head(
        "Connection: keep-alive, X-Mine, Content-Length, Authorization",
        "X-Mine: 1",
        "Keep-Alive: 5",
        "TE: trailers",
        "Proxy-Authorization: Basic x",
        "Proxy-Connection: close",
        "Authorization: kept",
        "Content-Length: 2",
        "Expect: 100-continue",
        first="POST / HTTP/1.1",
    )
    assert request_headers(parse(raw), PLACE) == [
        (b"host", b"api.test"),
        (b"authorization", b"kept"),
    ]


def test_another_port_stands_in_host() -> None:
    place = Place("api.test", 8443, "https")
    assert (
        dict(request_headers(parse(head(host="api.test"), place), place))[b"host"]
        == b"api.test:8443"
    )


def test_an_answer_of_our_own_says_which_rule() -> None:
    answer = plain_answer(403, "worker_denies", "no")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"x-intramuros-egress: worker_denies\r\n" in answer
    assert b"connection: close" in answer
    _, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-length: %d\r\n" % len(body) in answer


def test_an_answer_names_no_hop_and_keeps_its_framing() -> None:
    headers = [
        (b"Connection", b"close, X-A"),
        (b"X-A", b"1"),
        (b"Content-Length", b"3"),
        (b"B", b"2"),
    ]
    assert end_to_end(headers) == [(b"content-length", b"3"), (b"b", b"2")]


LINES = st.lists(st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")), max_size=6)


@given(LINES, st.sampled_from([b"GET / HTTP/1.1", b"POST /x HTTP/1.1", b"\x16\x03\x01 / HTTP/1.1"]))
def test_whatever_comes_it_is_read_or_refused(lines: list[bytes], first: bytes) -> None:
    raw = b"\r\n".join([first, b"Host: api.test", *lines, b"", b""])
    try:
        found = parse(raw[: raw.find(b"\r\n\r\n") + 4])
    except Refused:
        return
    names = [name for name, _ in request_headers(found, PLACE)]
    assert names.count(b"host") == 1
    assert b"transfer-encoding" not in names
    assert b"proxy-authorization" not in names
    assert found.target.startswith(b"/")
