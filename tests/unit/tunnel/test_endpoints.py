import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.tunnel.endpoints import (
    MAX_EVENT_BYTES,
    PREFIX,
    EndpointRefused,
    EndpointStream,
    Sealer,
    origin_of,
    target_of,
)

ORIGINS = [origin_of("https", "docs.t"), origin_of("http", "10.0.0.5:8080")]
SEALER = Sealer(b"me", [b"k" * 32])


def passed(said: bytes, size: int = 4096) -> bytes:
    stream = EndpointStream(lambda address: b"<" + address + b">")
    chunks = [said[at : at + size] for at in range(0, len(said), size)]
    return b"".join(map(stream.feed, chunks)) + stream.close()


@given(st.binary(min_size=1, max_size=300))
def test_what_was_sealed_opens_for_its_caller_alone(target: bytes) -> None:
    shown = SEALER.seal(target)
    assert shown.startswith(PREFIX)
    assert SEALER.open(shown) == target
    assert Sealer(b"you", [b"k" * 32]).open(shown) is None
    assert Sealer(b"me", [b"x" * 32]).open(shown) is None
    assert Sealer(b"me", [b"x" * 32, b"k" * 32]).open(shown) == target


@given(st.binary(max_size=80))
def test_what_was_never_sealed_does_not_open(noise: bytes) -> None:
    assert SEALER.open(PREFIX + noise) is None


@pytest.mark.parametrize(
    ("said", "target"),
    [
        (b"/messages/?session_id=1", b"/messages/?session_id=1"),
        (b"messages?s=1", b"/mcp/messages?s=1"),
        (b"../m/1", b"/m/1"),
        (b"?session=1", b"/mcp/sse?session=1"),
        (b"https://docs.t/m/1#x", b"/m/1"),
        (b"https://DOCS.T:443/m", b"/m"),
        (b"http://10.0.0.5:8080/m", b"/m"),
        (b"http://10.0.0.5:8080", b"/"),
        (b" /m ", b"/m"),
        (b"/m?next=https://elsewhere.example", b"/m?next=https://elsewhere.example"),
    ],
)
def test_an_address_is_read_as_a_client_reads_it(said: bytes, target: bytes) -> None:
    assert target_of(said, b"/mcp/sse", ORIGINS) == target


@pytest.mark.parametrize(
    "said",
    [
        b"https://mallory.example/m",
        b"//mallory.example/m",
        b"https://docs.t.mallory.example/m",
        b"https://docs.t@mallory.example/m",
        b"https://mallory@docs.t/m",
        b"https://docs.t:8443/m",
        b"http://docs.t/m",
        b"http://10.0.0.5/m",
        b"https://10.0.0.5:8080/m",
        b"http:mallory.example/m",
        b"javascript:alert(1)",
        b"file:///etc/passwd",
        b"https://[docs.t/m",
        b"https://docs.t:x/m",
        b"/\\mallory.example/m",
        b"\\\\mallory.example/m",
        b"/\t/mallory.example",
        b"/a b",
        b"/m\xc3\xa9",
        b"",
        b"/" + b"x" * 5000,
    ],
)
def test_t34_an_address_elsewhere_is_refused(said: bytes) -> None:
    with pytest.raises(EndpointRefused):
        target_of(said, b"/sse", ORIGINS)


GOOD = (
    b": hello\n\nid: 7\nevent: endpoint\ndata: /m/1\n\ndata: event: endpoint\n\n"
    b"event: message\ndata: /m/1\n\nretry: 9\n\nevent:endpoint\ndata:/m/2\n\ndata: last\n\n"
)
PASSED = GOOD.replace(b"event: endpoint\ndata: /m/1", b"event: endpoint\ndata: </m/1>", 1).replace(
    b"event:endpoint\ndata:/m/2", b"event: endpoint\ndata: </m/2>"
)


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_addresses_are_exchanged_and_all_else_stays(size: int, end: bytes) -> None:
    assert passed(GOOD.replace(b"\n", end), size) == PASSED.replace(b"\n", end)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_bytes_that_name_no_address_stay_as_they_are(said: bytes, size: int) -> None:
    try:
        whole = passed(said)
    except EndpointRefused:
        with pytest.raises(EndpointRefused):
            passed(said, size)
        return
    assert passed(said, size) == whole
    if b"endpoint" not in said.lower():
        assert whole == said


@pytest.mark.parametrize("size", [1000, 4096, 100_000])
def test_long_events_pass_piece_by_piece(size: int) -> None:
    long = b"data: " + b"x" * 3 * MAX_EVENT_BYTES
    many = b"data: 1\n" * MAX_EVENT_BYTES
    for said in (long + b"\n\n" + GOOD, long + b"\r\nid: 1\n\n" + GOOD, many + b"\n" + GOOD):
        assert passed(said, size) == said.replace(GOOD, PASSED)
    stream = EndpointStream(lambda address: address)
    held = len(long) - len(stream.feed(long))
    assert held <= MAX_EVENT_BYTES


LURE = b"data: https://mallory.example/\n"


@pytest.mark.parametrize("size", [1, 7, 4096, 100_000])
@pytest.mark.parametrize(
    "said",
    [
        b"event: endpoint\n\n",
        LURE + LURE + b"event: endpoint\n\n",
        b"event: message\nevent: endpoint\n" + LURE + b"\n",
        b"event: endpoint\nevent: message\n" + LURE + b"\n",
        b"data: " + b"x" * 20_000 + b"\n" + LURE + b"event: endpoint\n\n",
        b": " + b"x" * 20_000 + b"\r" + LURE + b"EVENT:  Endpoint \r\r" + b"x",
        b"event: endpoint\n: " + b"x" * 40_000 + b"\n" + LURE + b"\n",
        b"event:" + b" " * 20_000 + b"endpoint\n" + LURE + b"\n",
        b"\xef\xbb\xbfevent: endpoint\n" + LURE + LURE + b"\n",
        b"data\n" * 5000 + b"event: endpoint\n\n",
    ],
    ids=["bare", "two", "twice", "other", "late", "cr", "early", "wide", "bom", "many"],
)
def test_t34_what_could_name_an_address_unread_ends_the_stream(said: bytes, size: int) -> None:
    with pytest.raises(EndpointRefused):
        passed(said, size)


def test_t34_a_stream_that_breaks_off_leaves_no_address_behind() -> None:
    assert passed(b"data: 1\n\nevent: endpoint\n" + LURE) == b"data: 1\n\n"
    assert passed(b"data: 1\n\ndata: 2") == b"data: 1\n\ndata: 2"
