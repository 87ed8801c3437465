"""One request outwards and its answer back, both streamed, with back-pressure and digests."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import anyio
import h11

from intramuros.execution.egress.http1 import MAX_HEAD_BYTES, Head, end_to_end
from intramuros.execution.egress.ledger import Tally
from intramuros.execution.egress.leg import CHUNK_BYTES, GONE, Leg
from intramuros.execution.egress.limits import LimitReached, Meter
from intramuros.execution.egress.replace import Replacer
from intramuros.execution.egress.secrets import BodyFiller

# Before an answer; hosts send one or two.
MAX_INFORMATIONAL: Final = 16
_PLAIN: Final = frozenset({b"", b"identity"})
_INFLATED: Final = frozenset({b"gzip", b"x-gzip", b"deflate"})
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15
# An address of the same service that nobody has judged.
_DROPPED: Final = frozenset({b"alt-svc"})


class SandboxGone(Exception):
    """The sandbox's side of a connection is gone: nobody waits for the answer."""


class AnswerFailed(Exception):
    """The host's answer cannot be passed on; ``rule`` says why."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass
class Order:
    """A request that was judged and recorded, as it goes out."""

    head: Head
    headers: list[tuple[bytes, bytes]]
    body: bytes | None = None
    """The whole of it where it had to be read first; None: it is still to come."""
    filler: BodyFiller | None = None
    scrubber: Replacer | None = None
    bound: bool = False
    """Whether its connection to the host may carry no other program's requests after it."""
    strict: bool = False
    """Whether the host was given a secret: what cannot be searched may not come back."""

    _made: h11.Request | None = field(default=None, init=False)

    def request(self) -> h11.Request:
        """Return the request's head with what frames its body; made once."""
        if self._made is not None:
            return self._made
        framing: list[tuple[bytes, bytes]] = []
        if self.body is not None:
            if self.body or self.head.header(b"content-length"):
                framing = [(b"content-length", b"%d" % len(self.body))]
        elif self.head.length is None or self.filler is not None:
            framing = [(b"transfer-encoding", b"chunked")]
        else:
            framing = [(b"content-length", b"%d" % self.head.length)]
        self._made = h11.Request(
            method=self.head.method, target=self.head.target, headers=self.headers + framing
        )
        return self._made


@dataclass
class Ends:
    """The two streams of a transfer and their state; ``inside`` has received the head."""

    client: Leg
    inside: h11.Connection
    upstream: Leg
    outside: h11.Connection = field(
        default_factory=lambda: h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    )


class Transfer:
    """Carries one order out and its answer back."""

    def __init__(self, ends: Ends, order: Order, tally: Tally, meter: Meter) -> None:
        self._ends = ends
        self._order = order
        self._tally = tally
        self._meter = meter
        self._silence_s = meter.limits.silence_s
        self.answered = False
        """Whether anything of an answer went to the sandbox."""
        self.heard = False
        """Whether the host has said anything."""
        self._failure: Exception | None = None
        self.switched: h11.InformationalResponse | None = None
        """The answer that makes it a WebSocket."""

    async def run(self) -> None:
        """Carry everything.

        Raises:
            SandboxGone: the sandbox hung up.
            AnswerFailed: the host broke off, kept silent, or its answer may not be passed on.
            LimitReached: too many bytes.
        """
        await self._send_head()
        if self._order.body is not None:
            await self._answer()
            return
        async with anyio.create_task_group() as group:
            group.start_soon(self._upload, group.cancel_scope)
            try:
                await self._answer()
            except (SandboxGone, AnswerFailed, LimitReached) as error:
                self._failure = error
            group.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    @property
    def reusable(self) -> tuple[bool, bool]:
        """Tell whether the sandbox's connection and the host's may carry another request."""
        done, ends = h11.DONE, self._ends
        inside = ends.inside.our_state is done and ends.inside.their_state is done
        outside = ends.outside.our_state is done and ends.outside.their_state is done
        return inside, outside and not ends.outside.trailing_data[0]

    async def _send_head(self) -> None:
        order, out = self._order, self._ends.outside
        data = out.send(order.request()) or b""
        self._meter.send(len(data) + len(order.body or b""))
        if order.body is not None:
            # One write for both: a head alone would wait for the peer's delayed acknowledgement.
            data += out.send(h11.Data(data=order.body)) or b"" if order.body else b""
            data += out.send(h11.EndOfMessage()) or b""
            self._tally.sent.add(order.body)
        await self._meter.hold(len(data))
        await self._send_out(data)

    async def _upload(self, scope: anyio.CancelScope) -> None:
        try:
            await self._carry_body()
        except (SandboxGone, LimitReached) as error:
            self._failure = error
            scope.cancel()

    async def _carry_body(self) -> None:
        """Carry the body outwards; a host that has heard enough may still answer."""
        out, filler = self._ends.outside, self._order.filler
        while True:
            event = await next_inside(self._ends.client, self._ends.inside, self._silence_s)
            if isinstance(event, h11.Data):
                chunk = bytes(event.data)
                chunk = filler.feed(chunk) if filler is not None else chunk
            else:
                chunk = filler.finish() if filler is not None else b""
            data = b""
            if chunk:
                self._meter.send(len(chunk))
                self._tally.sent.add(chunk)
                await self._meter.hold(len(chunk))
                data = out.send(h11.Data(data=chunk)) or b""
            if not isinstance(event, h11.Data):
                data += out.send(h11.EndOfMessage()) or b""
            try:
                await self._send_out(data)
            except AnswerFailed:
                return
            if not isinstance(event, h11.Data):
                return

    async def _answer(self) -> None:
        for _ in range(MAX_INFORMATIONAL + 1):
            event = await self._next_outside()
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    self.switched = event
                    self._tally.status = 101
                    return
                continue  # 100 was said already, and nobody waits for the others
            if not isinstance(event, h11.Response):
                raise AnswerFailed("broken_off", "the host sent no answer")
            try:
                await self._pass_back(event)
            except h11.LocalProtocolError:
                # Its words may quote a header.
                raise AnswerFailed("malformed_answer", "the answer cannot be sent on") from None
            return
        raise AnswerFailed("malformed_answer", "the host does not come to its answer")

    async def _pass_back(self, response: h11.Response) -> None:
        self._tally.status = response.status_code
        body = _Body(self._order, response)
        http = self._ends.inside
        headers = [(n, body.scrub(v)) for n, v in end_to_end(response.headers, _DROPPED)]
        if body.reframed:
            headers = [(n, v) for n, v in headers if n not in body.reframed]
        pending = http.send(h11.Response(status_code=response.status_code, headers=headers)) or b""
        self.answered = True
        if not any(name == b"content-length" for name, _ in headers):
            # An event stream may be silent for long; its head must not wait for the first event.
            await self._send_in(pending)
            pending = b""
        while True:
            event = await self._next_outside()
            raw = bytes(event.data) if isinstance(event, h11.Data) else b""
            over = not isinstance(event, h11.Data)
            self._meter.receive(len(raw))
            self._tally.received.add(raw)
            await self._meter.hold(len(raw))
            for chunk in body.finish() if over else body.feed(raw):
                pending += http.send(h11.Data(data=chunk)) or b""
                if len(pending) >= CHUNK_BYTES:
                    await self._send_in(pending)
                    pending = b""
            if over:
                pending += http.send(h11.EndOfMessage()) or b""
            if pending:
                await self._send_in(pending)
                pending = b""
            if over:
                self._tally.scrubbed = body.count
                self._tally.ended = "complete"
                return

    async def _next_outside(self) -> object:
        ends = self._ends
        try:
            while (event := ends.outside.next_event()) is h11.NEED_DATA:
                try:
                    data = await ends.upstream.receive(CHUNK_BYTES, self._silence_s)
                    self.heard = True
                except anyio.EndOfStream:
                    data = b""
                ends.outside.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise AnswerFailed("malformed_answer", "the host's answer cannot be read") from error
        except GONE as error:
            raise AnswerFailed("broken_off", "the host broke off") from error
        return event

    async def _send_out(self, data: bytes) -> None:
        try:
            await self._ends.upstream.send(data, self._silence_s)
        except GONE as error:
            raise AnswerFailed("broken_off", "the host broke off") from error

    async def _send_in(self, data: bytes) -> None:
        try:
            await self._ends.client.send(data, self._silence_s)
        except GONE as error:
            raise SandboxGone from error


class _Body:
    """An answer's body on its way back: inflated and searched where that is called for."""

    def __init__(self, order: Order, response: h11.Response) -> None:
        self._replacer = order.scrubber
        encodings = [v.strip().lower() for n, v in response.headers if n == b"content-encoding"]
        encoding = b",".join(encodings)
        self._inflater: _Inflater | None = None
        self._through = self._replacer is None or not _has_body(order.head.method, response)
        self.reframed: frozenset[bytes] = frozenset()
        if self._through:
            return
        self.reframed = frozenset({b"content-length"})
        if encoding in _PLAIN:
            return
        if not order.strict:
            # Nothing was ever sent there that could come back.
            self._through, self.reframed = True, frozenset()
        elif encoding in _INFLATED:
            self._inflater = _Inflater(gzip=encoding != b"deflate")
            self.reframed = frozenset({b"content-length", b"content-encoding"})
        else:
            raise AnswerFailed("opaque_encoding", "the answer's encoding cannot be searched")

    @property
    def count(self) -> int:
        return self._replacer.count if self._replacer is not None else 0

    def scrub(self, value: bytes) -> bytes:
        """Return a header's value without secrets."""
        return self._replacer.whole(value) if self._replacer is not None else value

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what of the body may go on."""
        if self._through or self._replacer is None:
            yield chunk
            return
        for plain in self._inflater.feed(chunk) if self._inflater is not None else (chunk,):
            if settled := self._replacer.feed(plain):
                yield settled

    def finish(self) -> Iterator[bytes]:
        """Yield what was held back."""
        if self._through or self._replacer is None:
            return
        if self._inflater is not None and not self._inflater.whole:
            raise AnswerFailed("malformed_answer", "the compressed answer is cut short")
        if rest := self._replacer.finish():
            yield rest


class _Inflater:
    """Undoes gzip or deflate in bounded pieces, however much it grows."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._engine = zlib.decompressobj(wbits=_GZIP_BITS)
        self._begun = False
        self._first = b""

    @property
    def whole(self) -> bool:
        return (not self._begun and not self._first) or self._engine.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        if not self._gzip and not self._begun:
            # Some hosts leave out the two bytes that deflate begins with in HTTP.
            data = self._first = self._first + data
            if len(data) < 2:
                return
            headed = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0
            self._engine = zlib.decompressobj(wbits=_ZLIB_BITS if headed else _RAW_BITS)
        try:
            more = False
            while data or more:
                self._begun = True
                if self._engine.eof:
                    if not self._gzip:
                        raise AnswerFailed("malformed_answer", "something follows the answer")
                    # gzip files may be several, one after the other
                    self._engine = zlib.decompressobj(wbits=_GZIP_BITS)
                plain = self._engine.decompress(data, CHUNK_BYTES)
                yield plain
                data = self._engine.unconsumed_tail or self._engine.unused_data
                # A full piece may not have been all of it.
                more = len(plain) == CHUNK_BYTES and not self._engine.eof
        except zlib.error as error:
            raise AnswerFailed("malformed_answer", "the answer cannot be inflated") from error


async def next_inside(client: Leg, http: h11.Connection, silence_s: float) -> object:
    """Return what the sandbox sends next.

    Raises:
        SandboxGone: it broke off, or sends what is no body.
    """
    try:
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(await client.receive(CHUNK_BYTES, silence_s))
    except (h11.RemoteProtocolError, *GONE) as error:
        raise SandboxGone from error
    return event


def _has_body(method: bytes, response: h11.Response) -> bool:
    return method != b"HEAD" and response.status_code not in (204, 304)
