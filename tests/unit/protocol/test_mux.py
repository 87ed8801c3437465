import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from intramuros.protocol.mux import (
    GROWTH_BUDGET,
    MAX_PENDING_REPLIES,
    MAX_WINDOW,
    Credited,
    Event,
    Finished,
    GoingAway,
    LinkFull,
    Mux,
    Opened,
    Ponged,
    Ready,
    Received,
    Reset,
    Side,
    StreamGone,
)
from intramuros.protocol.mux_frames import (
    KIB,
    MAX_DATA_ALONE,
    MAX_DATA_SHARED,
    Code,
    FrameType,
    Hello,
    MuxViolation,
    Open,
    encode_goaway,
    encode_hello,
    encode_open,
    encode_u32,
    frame,
)

REQUEST = Open("docs.t.example", 10_000, "t-1", "sesn_1")


def flush(source: Mux, target: Mux) -> list[Event]:
    return target.receive(b"".join(source.data_to_send()))


def pair(hello: Hello | None = None) -> tuple[Mux, Mux]:
    edge, gateway = Mux(Side.EDGE, hello), Mux(Side.GATEWAY, hello)
    assert flush(edge, gateway) == [Ready(hello or Hello())]
    assert flush(gateway, edge) == [Ready(hello or Hello())]
    return edge, gateway


def opened(hello: Hello | None = None) -> tuple[Mux, Mux, int]:
    edge, gateway = pair(hello)
    stream_id = edge.open(REQUEST)
    assert flush(edge, gateway) == [Opened(stream_id, REQUEST)]
    return edge, gateway, stream_id


def data_of(events: Iterable[Event]) -> bytes:
    return b"".join(e.data for e in events if isinstance(e, Received))


def test_bytes_go_both_ways_and_each_direction_ends_by_itself() -> None:
    edge, gateway, one = opened()
    assert edge.send(one, b"question") == 8
    edge.finish(one)
    assert flush(edge, gateway) == [Received(one, b"question"), Finished(one)]
    assert gateway.send(one, b"answer") == 6
    assert flush(gateway, edge) == [Received(one, b"answer")]
    gateway.finish(one)
    assert flush(gateway, edge) == [Finished(one)]
    assert edge.open_streams == gateway.open_streams == 0


def test_credit_comes_back_when_bytes_are_consumed_not_when_they_arrive() -> None:
    window = 8 * KIB
    edge, gateway, one = opened(Hello(window=window))
    assert edge.send(one, b"x" * 20_000) == window
    assert edge.send(one, b"x") == 0
    assert len(data_of(flush(edge, gateway))) == window
    assert gateway.data_to_send() == []
    gateway.consumed(one, window // 2 - 1)
    assert gateway.data_to_send() == []
    gateway.consumed(one, 1)
    assert flush(gateway, edge) == [Credited(one)]
    assert edge.send(one, b"x" * 20_000) == window // 2


def test_a_consumer_that_keeps_up_gets_a_larger_window() -> None:
    edge, gateway, one = opened(Hello(window=8 * KIB))
    sent = largest = 0
    while sent < 8 * MAX_WINDOW:
        burst = 0
        while size := edge.send(one, b"x" * MAX_DATA_ALONE):
            burst += size
        sent, largest = sent + burst, max(largest, burst)
        gateway.consumed(one, len(data_of(flush(edge, gateway))))
        flush(gateway, edge)
    assert largest == MAX_WINDOW


def test_growth_of_all_streams_together_is_bounded() -> None:
    edge, gateway = pair(Hello(window=64 * KIB))
    total = 0
    for _ in range(3 * GROWTH_BUDGET // MAX_WINDOW):
        one = edge.open(REQUEST)
        flush(edge, gateway)
        for _ in range(8):
            burst = 0
            while size := edge.send(one, b"x" * MAX_DATA_ALONE):
                burst += size
            gateway.consumed(one, len(data_of(flush(edge, gateway))))
            flush(gateway, edge)
        total += burst
    streams = edge.open_streams
    assert total <= GROWTH_BUDGET + streams * 64 * KIB


def test_frames_are_small_when_streams_share_the_link() -> None:
    edge, _, one = opened(Hello(window=1024 * KIB))
    assert edge.send(one, b"x" * 500_000) == MAX_DATA_ALONE
    edge.open(REQUEST)
    assert edge.send(one, b"x" * 500_000) == MAX_DATA_SHARED


def test_reset_frees_the_stream_and_late_frames_are_ignored() -> None:
    edge, gateway, one = opened()
    gateway.reset(one, Code.NO_ROUTE)
    edge.send(one, b"crossed on the way")
    edge.finish(one)
    assert flush(edge, gateway) == []
    assert flush(gateway, edge) == [Reset(one, Code.NO_ROUTE)]
    with pytest.raises(StreamGone):
        edge.send(one, b"x")
    with pytest.raises(StreamGone):
        edge.finish(one)
    edge.reset(one, Code.CANCELLED)
    edge.consumed(one, 5)
    assert edge.data_to_send() == []


def test_ping_is_answered() -> None:
    edge, gateway = pair()
    edge.ping(b"12345678")
    assert flush(edge, gateway) == []
    assert flush(gateway, edge) == [Ponged(b"12345678")]


def test_a_peer_that_is_going_away_gets_no_streams() -> None:
    edge, gateway, one = opened()
    gateway.go_away(Code.DRAIN)
    late = edge.open(REQUEST)
    assert flush(edge, gateway) == []
    assert flush(gateway, edge) == [GoingAway(one, Code.DRAIN), Reset(late, Code.REFUSED)]
    assert not edge.accepts_streams
    with pytest.raises(LinkFull):
        edge.open(REQUEST)
    assert edge.send(one, b"still open") == 10


def test_no_stream_before_hello() -> None:
    with pytest.raises(LinkFull):
        Mux(Side.EDGE).open(REQUEST)


def test_stream_limit_is_the_acceptors_and_is_refused_with_a_code() -> None:
    edge, gateway = Mux(Side.EDGE), Mux(Side.GATEWAY, Hello(max_streams=1))
    flush(edge, gateway)
    flush(gateway, edge)
    edge.open(REQUEST)
    with pytest.raises(LinkFull):
        edge.open(REQUEST)
    flush(edge, gateway)
    assert gateway.receive(encode_open(9, REQUEST)) == []
    assert b"".join(gateway.data_to_send()) == encode_u32(FrameType.RST, 9, Code.REFUSED)


def test_a_gateway_cannot_open() -> None:
    with pytest.raises(RuntimeError, match="edge"):
        Mux(Side.GATEWAY).open(REQUEST)


HELLO = encode_hello(Hello())
OPEN = encode_open(1, REQUEST)


@pytest.mark.parametrize(
    ("side", "data", "code"),
    [
        (Side.GATEWAY, OPEN, Code.PROTOCOL),
        (Side.GATEWAY, HELLO + HELLO, Code.PROTOCOL),
        (Side.EDGE, HELLO + OPEN, Code.PROTOCOL),
        (Side.GATEWAY, HELLO + OPEN + OPEN, Code.PROTOCOL),
        (Side.GATEWAY, HELLO + frame(FrameType.DATA, 5, b"x"), Code.PROTOCOL),
        (Side.GATEWAY, HELLO + encode_u32(FrameType.RST, 5, 0), Code.PROTOCOL),
        (Side.GATEWAY, HELLO + OPEN + frame(FrameType.FIN, 1) * 2, Code.PROTOCOL),
        (
            Side.GATEWAY,
            HELLO + OPEN + frame(FrameType.FIN, 1) + frame(FrameType.DATA, 1, b"x"),
            Code.PROTOCOL,
        ),
        (Side.GATEWAY, HELLO + OPEN + encode_u32(FrameType.WINDOW, 1, 0), Code.FLOW_CONTROL),
        (
            Side.GATEWAY,
            HELLO + OPEN + encode_u32(FrameType.WINDOW, 1, 2**31 - 1) * 2,
            Code.FLOW_CONTROL,
        ),
        (
            Side.GATEWAY,
            HELLO
            + OPEN
            + frame(FrameType.DATA, 1, b"x" * (64 * KIB))
            + frame(FrameType.DATA, 1, b"x"),
            Code.FLOW_CONTROL,
        ),
        (
            Side.GATEWAY,
            HELLO + frame(FrameType.PING, 0, b"12345678") * (MAX_PENDING_REPLIES // 17 + 1),
            Code.PROTOCOL,
        ),
    ],
)
def test_t24_t25_a_peer_that_breaks_the_rules_gets_goaway(
    side: Side, data: bytes, code: Code
) -> None:
    mux = Mux(side)
    with pytest.raises(MuxViolation) as caught:
        mux.receive(data)
    assert caught.value.code is code
    out = b"".join(mux.data_to_send())
    last_id = 1 if OPEN in data and side is Side.GATEWAY and data != OPEN else 0
    assert out.endswith(encode_goaway(last_id, code))
    with pytest.raises(MuxViolation, match="ended"):
        mux.receive(frame(FrameType.PING, 0, b"12345678"))
    assert mux.data_to_send() == []


def test_a_flood_of_opens_beyond_the_limit_is_cut() -> None:
    gateway = Mux(Side.GATEWAY, Hello(max_streams=1))
    gateway.receive(HELLO)
    with pytest.raises(MuxViolation, match="faster"):
        for stream_id in range(1, 10_000):
            gateway.receive(encode_open(stream_id, REQUEST))


@given(st.binary(max_size=2000))
@settings(max_examples=200)
def test_arbitrary_bytes_after_hello_give_events_or_a_violation(data: bytes) -> None:
    gateway = Mux(Side.GATEWAY)
    gateway.receive(HELLO + OPEN)
    gateway.data_to_send()
    try:
        gateway.receive(data)
    except MuxViolation:
        assert b"".join(gateway.data_to_send())[-17] == FrameType.GOAWAY


mutations = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4)


@given(mutations)
def test_mutated_traffic_never_raises_anything_else(changes: list[tuple[int, int]]) -> None:
    data = bytearray(
        HELLO
        + OPEN
        + frame(FrameType.DATA, 1, b"hello")
        + encode_u32(FrameType.WINDOW, 1, 5)
        + frame(FrameType.FIN, 1)
    )
    for at, value in changes:
        data[at % len(data)] = value
    try:
        for event in Mux(Side.GATEWAY).receive(bytes(data)):
            assert not isinstance(event, Opened) or "." in event.request.host
    except MuxViolation:
        pass


class TwoEnds(RuleBasedStateMachine):
    """Random use of both ends: every byte sent arrives once, in order, within the window."""

    def __init__(self) -> None:
        super().__init__()
        self.window = 4 * KIB
        self.edge, self.gateway = pair(Hello(window=self.window))
        self.ends = {Side.EDGE: self.edge, Side.GATEWAY: self.gateway}
        self.sent: dict[tuple[Side, int], bytes] = {}
        self.got: dict[tuple[Side, int], bytes] = {}
        self.unread: dict[tuple[Side, int], int] = {}
        self.closed: set[int] = set()
        self.counter = 0
        self.ids: list[int] = []

    @rule()
    def open(self) -> None:
        self.ids.append(self.edge.open(REQUEST))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), side=st.sampled_from(Side), size=st.integers(1, 3000))
    def send(self, data: st.DataObject, side: Side, size: int) -> None:
        stream_id = data.draw(st.sampled_from(self.ids))
        self.counter += 1
        block = struct.pack("!I", self.counter) * (size // 4 + 1)
        try:
            taken = self.ends[side].send(stream_id, block)
        except StreamGone:
            return
        key = (side, stream_id)
        self.sent[key] = self.sent.get(key, b"") + block[:taken]

    @rule(side=st.sampled_from(Side))
    def deliver(self, side: Side) -> None:
        source = self.ends[side]
        other = Side.GATEWAY if side is Side.EDGE else Side.EDGE
        for event in self.ends[other].receive(b"".join(source.data_to_send())):
            if isinstance(event, Received):
                key = (side, event.stream_id)
                self.got[key] = self.got.get(key, b"") + event.data
                self.unread[key] = self.unread.get(key, 0) + len(event.data)

    @precondition(lambda self: any(self.unread.values()))
    @rule(data=st.data())
    def consume(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.unread, key=repr)))
        size = data.draw(st.integers(0, self.unread[key]))
        self.unread[key] -= size
        side = Side.GATEWAY if key[0] is Side.EDGE else Side.EDGE
        self.ends[side].consumed(key[1], size)

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), side=st.sampled_from(Side), hard=st.booleans())
    def close(self, data: st.DataObject, side: Side, hard: bool) -> None:
        stream_id = data.draw(st.sampled_from(self.ids))
        if hard:
            self.ends[side].reset(stream_id, Code.CANCELLED)
            self.closed.add(stream_id)
            return
        try:
            self.ends[side].finish(stream_id)
        except StreamGone:
            return

    @invariant()
    def what_arrives_was_sent(self) -> None:
        for key, got in self.got.items():
            assert self.sent[key].startswith(got)

    @invariant()
    def nobody_holds_more_than_a_window(self) -> None:
        assert all(size <= MAX_WINDOW for size in self.unread.values())

    def teardown(self) -> None:
        for _ in range(2):
            self.deliver(Side.EDGE)
            self.deliver(Side.GATEWAY)
        for key, sent in self.sent.items():
            if key[1] not in self.closed:
                assert self.got.get(key, b"") == sent


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
