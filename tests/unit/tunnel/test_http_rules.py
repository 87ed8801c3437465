import pytest

from intramuros.tunnel.http_rules import (
    MAX_HEADERS,
    BadRequest,
    check_head,
    check_request,
    response_headers,
    upstream_headers,
)

HOST = "docs.t.example"
GOOD = [(b"host", HOST.encode())]


def test_a_plain_head_passes() -> None:
    check_head(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    check_request(b"POST", b"/mcp?a=1", [*GOOD, (b"content-length", b"3")], HOST)
    check_request(b"POST", b"/mcp", [*GOOD, (b"transfer-encoding", b"chunked")], HOST)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: a\r\n\tfolded\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\n\r\n",
    ],
)
def test_t28_odd_heads_are_refused(head: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        check_head(head)
    assert caught.value.status == 400


def test_too_many_headers() -> None:
    with pytest.raises(BadRequest) as caught:
        check_head(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEADERS + 1) + b"\r\n")
    assert caught.value.status == 431


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        (b"CONNECT", b"10.0.0.1:22", GOOD, 405),
        (b"TRACE", b"/", GOOD, 405),
        (b"GET", b"http://10.0.0.1/", GOOD, 400),
        (b"OPTIONS", b"*", GOOD, 400),
        (b"GET", b"/a#b", GOOD, 400),
        (b"GET", b"/", [], 400),
        (b"GET", b"/", GOOD * 2, 400),
        (b"GET", b"/", [(b"host", b"other.t.example")], 421),
        (b"GET", b"/", [(b"host", HOST.upper().encode())], 421),
        (b"GET", b"/", [(b"host", HOST.encode() + b":443")], 421),
        (b"GET", b"/", [(b"host", HOST.encode() + b".")], 421),
        (
            b"POST",
            b"/",
            [*GOOD, (b"content-length", b"3"), (b"transfer-encoding", b"chunked")],
            400,
        ),
        (b"POST", b"/", [*GOOD, (b"content-length", b"3"), (b"content-length", b"3")], 400),
        (b"POST", b"/", [*GOOD, (b"content-type", b"a/b"), (b"content-type", b"a/c")], 400),
        (b"POST", b"/", [*GOOD, (b"transfer-encoding", b"gzip, chunked")], 400),
        (b"GET", b"/", [*GOOD, (b"upgrade", b"websocket")], 400),
    ],
)
def test_t23_t28_ambiguous_requests_are_refused(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], status: int
) -> None:
    with pytest.raises(BadRequest) as caught:
        check_request(method, target, headers, HOST)
    assert caught.value.status == status


def test_host_is_rewritten_and_hop_by_hop_headers_stay_here() -> None:
    sent = upstream_headers(
        [
            *GOOD,
            (b"connection", b"close, X-Secret-Hop"),
            (b"x-secret-hop", b"1"),
            (b"te", b"trailers"),
            (b"proxy-authorization", b"Basic x"),
            (b"content-length", b"9"),
            (b"x-forwarded-host", b"spoofed"),
            (b"x-forwarded-for", b"spoofed"),
            (b"mcp-session-id", b"s1"),
            (b"authorization", b"Bearer t"),
        ],
        authority="10.0.0.5:8080",
        host=HOST,
        body_size=9,
    )
    assert sent == [
        (b"host", b"10.0.0.5:8080"),
        (b"mcp-session-id", b"s1"),
        (b"authorization", b"Bearer t"),
        (b"x-forwarded-host", HOST.encode()),
        (b"x-forwarded-proto", b"https"),
        (b"content-length", b"9"),
    ]


def test_connection_cannot_name_away_the_framing() -> None:
    kept = response_headers(
        [(b"Connection", b"content-type"), (b"Content-Type", b"a/b"), (b"Keep-Alive", b"5")]
    )
    assert kept == [(b"content-type", b"a/b")]
