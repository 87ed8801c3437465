import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.protocol.dial import (
    MAX_LINE_BYTES,
    BadLine,
    Dial,
    FenceCall,
    LinkHello,
    Refusal,
    connection_name,
    encode_call,
    encode_link_hello,
    encode_reply,
    parse_call,
    parse_link_hello,
    parse_reply,
)

TOKENS = st.text("abcXYZ019_.-", min_size=1, max_size=200)


@given(TOKENS, st.text("abc-._:", max_size=50))
def test_hello_travels(token: str, gateway: str) -> None:
    line = encode_link_hello(LinkHello(token, gateway))
    assert line.endswith(b"\n")
    assert parse_link_hello(line[:-1]) == LinkHello(token, gateway)


@given(TOKENS)
def test_calls_travel(token: str) -> None:
    for call in (Dial(token), FenceCall(token)):
        assert parse_call(encode_call(call)[:-1]) == call


def test_replies_travel() -> None:
    assert parse_reply(encode_reply(None)[:-1]) is None
    refusal = Refusal("no_link", "nobody is here")
    assert parse_reply(encode_reply(refusal)[:-1]) == refusal
    assert encode_reply(Refusal("x", "é\n\0" + "a" * 9000)).count(b"\n") == 1
    assert len(encode_reply(Refusal("x", "a" * 9000))) < MAX_LINE_BYTES
    # What a terminal would obey is not passed on, whoever the edge is.
    assert parse_reply(b"ERR no_link a\x1b[2Jb\x07") == Refusal("no_link", "a?[2Jb?")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{}",
        b'{"v":2,"token":"a","gateway":""}',
        b'{"v":1,"token":"a b","gateway":""}',
        b'{"v":1,"token":1,"gateway":""}',
        b'{"v":1,"token":"a"}',
        b'{"v":1,"token":"a","gateway":"a b"}',
        b"[" * 4000,
        b"\xff",
        b"x" * MAX_LINE_BYTES,
    ],
)
def test_bad_hellos_are_refused(line: bytes) -> None:
    with pytest.raises(BadLine):
        parse_link_hello(line)


@pytest.mark.parametrize(
    "line", [b"", b"DIAL", b"DIAL ", b"DIAL a b", b"dial a", b"GET / HTTP/1.1", b"FENCE \xe9"]
)
def test_bad_calls_are_refused(line: bytes) -> None:
    with pytest.raises(BadLine):
        parse_call(line)


@pytest.mark.parametrize(
    "line", [b"", b"ok", b"ERR", b"ERR Bad Code", b"HTTP/1.1 400", b"\x15\x03"]
)
def test_bad_replies_are_refused(line: bytes) -> None:
    with pytest.raises(BadLine):
        parse_reply(line)


@given(st.binary(max_size=300))
def test_arbitrary_lines_give_a_value_or_bad_line(line: bytes) -> None:
    for parse in (parse_link_hello, parse_call, parse_reply):
        try:
            parse(line)
        except BadLine:
            continue


def test_connections_are_named_by_what_only_their_ends_know() -> None:
    one, two = connection_name(b"a" * 48), connection_name(b"b" * 48)
    assert one != two
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", one)
    # Without a label it would be a hash that means something else elsewhere.
    plain = base64.urlsafe_b64encode(hashlib.sha256(b"a" * 48).digest()).rstrip(b"=").decode()
    assert one != plain
    with pytest.raises(ValueError, match="no TLS"):
        connection_name(b"")
