import re

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.protocol.who import Group, Kind, Who
from intramuros.tunnel.bound_sessions import Binder, Bound, session_key
from intramuros.tunnel.callers import Caller
from intramuros.tunnel.endpoints import PREFIX, EndpointRefused, origin_of

ANN = Who(Kind.USER, "user_ann", "ann@example.com", (Group("g", "G"),))
BOB = Who(Kind.USER, "user_bob")
CALLER = Caller("docs.t", "sesn_1", "t", "wrkspc_1", who=(ANN,))
BINDER = Binder(lambda: [b"k" * 32])
MINE = BINDER.of("docs", CALLER)
ID = re.compile(rb"[\x21-\x7e]+\Z")


def foreign() -> list[Bound]:
    others = [
        Caller("docs.t", "sesn_2", "t", "wrkspc_1", who=(ANN,)),
        Caller("docs.t", "sesn_1", "t", "wrkspc_2", who=(ANN,)),
        Caller("docs.t", "sesn_1", "t", "wrkspc_1", who=(ANN, BOB)),
        Caller("docs.t", "sesn_1", "t", "wrkspc_1", who=(BOB,)),
        Caller("docs.t", "sesn_1", "t", "wrkspc_1"),
    ]
    found = [BINDER.of("docs", caller) for caller in others]
    return [*found, BINDER.of("bank", CALLER), Binder(lambda: [b"x" * 32]).of("docs", CALLER)]


@given(st.binary(min_size=1, max_size=300))
def test_t34_an_id_is_its_callers_and_nobody_elses(id: bytes) -> None:
    shown = MINE.tag(id)
    assert MINE.known(shown) == id
    assert len(shown) <= len(id) + 24
    assert not any(bound.known(shown) for bound in foreign())
    assert MINE.known(id) is None


def test_what_is_shown_stays_visible_ascii() -> None:
    assert ID.match(MINE.tag(b"a1b2-c3"))


@given(st.binary(max_size=60))
def test_t34_what_was_never_given_is_not_known(shown: bytes) -> None:
    assert MINE.known(shown) is None


def test_names_and_groups_may_change_and_order_does_not_count() -> None:
    plain = Who(Kind.USER, "user_ann")
    two = BINDER.of("docs", Caller("docs.t", "sesn_1", "t2", "wrkspc_1", who=(BOB, plain)))
    other = BINDER.of("docs", Caller("docs.t", "sesn_1", "t3", "wrkspc_1", who=(ANN, BOB)))
    assert other.known(two.tag(b"id")) == b"id"


def test_an_older_key_is_known_again_and_makes_no_tags() -> None:
    old, new = session_key(b"old"), session_key(b"new")
    before = Binder(lambda: [old]).of("docs", CALLER)
    now = Binder(lambda: [new, old]).of("docs", CALLER)
    after = Binder(lambda: [new]).of("docs", CALLER)
    assert now.known(before.tag(b"id")) == b"id"
    assert after.known(now.tag(b"id")) == b"id"
    assert after.known(before.tag(b"id")) is None


def test_a_server_gets_its_own_ids() -> None:
    shown = MINE.tag(b"abc")
    found = MINE.request([(b"mcp-session-id", shown), (b"accept", b"a")], b"/mcp", rpc=True)
    assert found is not None
    assert found.headers == [(b"mcp-session-id", b"abc"), (b"accept", b"a")]
    # What is no message of MCP keeps its address, whatever is in it.
    found = MINE.request([], b"/login?session_id=1", rpc=False)
    assert found is not None
    assert found.target == b"/login?session_id=1"
    # Protocol 2026-07-28 knows no sessions.
    found = MINE.request([(b"mcp-protocol-version", b"2026-07-28")], b"/mcp?x", rpc=True)
    assert found is not None
    assert found.target == b"/mcp?x"


@pytest.mark.parametrize(
    ("header", "query"),
    [
        (b"abc", b""),
        (b"", b""),
        (b".", b""),
        (None, b"session_id=abc"),
        (None, b"sessionId=abc"),
        (None, b"SESSIONID=abc"),
        (None, b"session%5Fid=abc"),
        (None, b"%73essionId=abc"),
        (None, b"x=1&sessionId="),
        (None, b"session_id"),
        (MINE.tag(b"abc"), b"session_id=abc"),
        (None, b"session_id=" + MINE.tag(b"abc")),
        (MINE.tag(b"abc"), b"session_id=" + MINE.tag(b"abc") + b"&session_id=def"),
    ],
)
def test_t34_what_is_not_the_callers_is_refused_wherever_it_stands(
    header: bytes | None, query: bytes
) -> None:
    headers = [] if header is None else [(b"mcp-session-id", header)]
    assert MINE.request(headers, b"/mcp?" + query, rpc=True) is None


def answered(*chunks: bytes, kind: str = "text/event-stream", **more: str) -> httpcore2.Response:
    async def parts():  # type: ignore[no-untyped-def]
        for chunk in chunks:
            yield chunk

    headers = {"Content-Type": kind, "Content-Length": "9", **more}
    return httpcore2.Response(200, headers=list(headers.items()), content=parts())


async def read(response: httpcore2.Response) -> bytes:
    return b"".join([chunk async for chunk in response.aiter_stream()])


FIRST = b": hello\r\n\r\nevent: endpoint\r\ndata: /m/abc?x=1\r\n\r\n"
ORIGINS = [origin_of("https", "docs.t"), origin_of("http", "10.0.0.5:8080")]


@pytest.mark.anyio
async def test_t34_an_address_is_its_callers_and_nobody_elses() -> None:
    passed = MINE.response(answered(FIRST), b"/sse", ORIGINS)
    assert b"content-length" not in {name.lower() for name, _ in passed.headers}
    whole = await read(passed)
    assert b"abc" not in whole
    shown = whole.partition(b"data: ")[2].rstrip()
    assert shown.startswith(PREFIX)
    assert ID.match(shown)
    others = (shown[:-1], shown + b"=", shown + b"A", PREFIX, PREFIX + b"\xff", shown + b"?x")
    for rpc in (True, False):
        found = MINE.request([], shown, rpc=rpc)
        assert found is not None
        assert found.target == b"/m/abc?x=1"
        assert not any(other.request([], shown, rpc=rpc) for other in foreign())
        assert not any(MINE.request([], tried, rpc=rpc) for tried in others)
    # A key that was changed since opens it still.
    later = Binder(lambda: [b"n" * 32, b"k" * 32]).of("docs", CALLER)
    assert later.request([], shown, rpc=True) is not None


@pytest.mark.anyio
async def test_other_answers_keep_their_bytes() -> None:
    first = FIRST.replace(b"endpoint", b"message")
    assert await read(MINE.response(answered(first), b"/sse", ORIGINS)) == first
    assert await read(MINE.response(answered(FIRST))) == FIRST
    plain = answered(FIRST, kind="text/plain")
    assert MINE.response(plain, b"/sse", ORIGINS) is plain
    packed = answered(FIRST, **{"Content-Encoding": "gzip"})
    with pytest.raises(EndpointRefused, match="packed"):
        await read(MINE.response(packed, b"/sse", ORIGINS))


def test_the_header_of_an_answer_is_tagged() -> None:
    found = MINE.response(answered(b"", **{"Mcp-Session-Id": "abc"}))
    assert (b"Mcp-Session-Id", MINE.tag(b"abc")) in found.headers
