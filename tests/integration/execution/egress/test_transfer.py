import gzip
import hashlib
import random
import zlib
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from tests.fakes.origin import Visit, answer
from tests.integration.execution.egress.rig import MARK, VALUE, get, got, rig, secret

pytestmark = pytest.mark.anyio


def chunked(*chunks: bytes, headers: str = "") -> bytes:
    head = f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{headers}\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks)


async def test_a_large_answer_streams_and_its_digest_is_kept(tmp_path: Path) -> None:
    body = bytes(range(256)) * 8192

    async def large(visit: Visit) -> None:
        await visit.send(answer(body))

    async with rig(tmp_path, tls=True) as site:
        site.origin.answer = large
        async with site.secure() as stream:
            assert (await site.ask(stream, get())).body == body
        ended = site.records("egress.end")[0]
        assert ended["response_bytes"] == len(body)
        assert ended["response_sha256"] == hashlib.sha256(body).hexdigest()


async def test_a_large_body_streams_and_its_digest_is_kept(tmp_path: Path) -> None:
    body = bytes(range(256)) * 8192
    async with rig(tmp_path, tls=True) as site:
        async with site.secure() as stream:
            raw = get("/", method="PUT", body=body)
            assert (await site.ask(stream, raw)).status == 200
        assert site.origin.visits[0].body == body
        ended = site.records("egress.end")[0]
        assert ended["request_bytes"] == len(body)
        assert ended["request_sha256"] == hashlib.sha256(body).hexdigest()


async def test_a_slow_sandbox_holds_the_host_back(tmp_path: Path) -> None:
    sent = 0

    async def endless(visit: Visit) -> None:
        nonlocal sent
        await visit.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while True:
            await visit.send(b"x" * 65536)
            sent += 65536

    async with rig(tmp_path) as site:
        site.origin.answer = endless
        async with site.connect() as stream:
            await stream.send(get())
            await stream.receive()
            for _ in range(200):
                before = sent
                await anyio.sleep(0.05)
                if sent == before:
                    break
            assert sent == before < 64 * 1024 * 1024
        assert site.records("egress.end")[0]["ended"] == "sandbox_gone"


async def test_events_arrive_one_by_one(tmp_path: Path) -> None:
    go_on = anyio.Event()

    async def events(visit: Visit) -> None:
        await visit.send(chunked(b"data: 1\n\n", headers="content-type: text/event-stream\r\n"))
        await go_on.wait()
        await visit.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    async with rig(tmp_path) as site:
        site.set(secret())
        site.origin.answer = events
        async with site.connect() as stream:
            await stream.send(get())
            seen = b""
            with anyio.fail_after(60):
                while b"data: 1\n\n" not in seen:
                    seen += await stream.receive()
            go_on.set()
            with anyio.fail_after(60):
                while b"data: 2\n\n" not in seen:
                    seen += await stream.receive()


@pytest.mark.parametrize("cut", [1, 7, len(VALUE) - 1])
async def test_a_secret_that_is_cut_in_two_does_not_come_back(tmp_path: Path, cut: int) -> None:
    async def halves(visit: Visit) -> None:
        value = VALUE.encode()
        await visit.send(chunked(b"<" + value[:cut]))
        await anyio.sleep(0.02)
        await visit.send(b"%x\r\n%s>\r\n0\r\n\r\n" % (len(value) - cut + 1, value[cut:]))

    async with rig(tmp_path) as site:
        site.set(secret())
        site.origin.answer = halves
        assert (await site.once(get())).body == b"<" + MARK + b">"


async def test_a_compressed_answer_is_opened_and_searched(tmp_path: Path) -> None:
    plain = b"x" * 300_000 + VALUE.encode() + b"y" * 300_000

    async def packed(visit: Visit) -> None:
        twice = gzip.compress(plain) + gzip.compress(b"end")
        await visit.send(answer(twice, 200, "Content-Encoding: gzip"))

    async with rig(tmp_path) as site:
        site.set(secret())
        site.origin.answer = packed
        answered = await site.once(get())
        assert answered.body == plain.replace(VALUE.encode(), MARK) + b"end"
        assert "content-encoding" not in answered.headers


@pytest.mark.parametrize("bits", [15, -15])
@pytest.mark.parametrize("size", [1, 1000])
async def test_deflate_is_opened_and_searched_with_its_header_or_without(
    tmp_path: Path, bits: int, size: int
) -> None:
    engine = zlib.compressobj(wbits=bits)
    plain = (b"<" + VALUE.encode() + b">") * 20
    packed = engine.compress(plain) + engine.flush()

    async def deflated(visit: Visit) -> None:
        await visit.send(answer(packed, 200, "Content-Encoding: deflate")[: -len(packed)])
        for at in range(0, len(packed), size):
            await visit.send(packed[at : at + size])
            await anyio.lowlevel.checkpoint()

    async with rig(tmp_path) as site:
        site.set(secret())
        site.origin.answer = deflated
        answered = await site.once(get())
        assert answered.body == plain.replace(VALUE.encode(), MARK)
        assert "content-encoding" not in answered.headers
        for damaged in (packed + b"more", packed[:-1], b"x"):
            packed = damaged
            async with site.connect() as stream:
                await stream.send(get())
                with pytest.raises(Exception, match=r"(?i)chunk|incomplete|closed"):
                    await got(stream)
            assert site.records("egress.end")[-1]["ended"] == "malformed_answer"


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, br", "gzip, gzip"])
async def test_an_answer_that_cannot_be_searched_does_not_come_back(
    tmp_path: Path, coding: str
) -> None:
    async def packed(visit: Visit) -> None:
        await visit.send(answer(b"opaque", 200, f"Content-Encoding: {coding}"))

    async with rig(tmp_path) as site:
        site.set(secret())
        site.origin.answer = packed
        answered = await site.once(get())
        assert (answered.status, answered.rule) == (502, "opaque_encoding")
        assert b"opaque\n" not in answered.body
        site.set()
        assert (await site.once(get())).body == b"opaque"


async def test_a_broken_gzip_is_no_answer(tmp_path: Path) -> None:
    async def broken(visit: Visit) -> None:
        await visit.send(answer(gzip.compress(b"x" * 9999)[:-9], 200, "Content-Encoding: gzip"))

    async with rig(tmp_path) as site:
        site.set(secret())
        site.origin.answer = broken
        async with site.connect() as stream:
            await stream.send(get())
            with pytest.raises(Exception, match=r"(?i)chunk|incomplete|closed"):
                await got(stream)
        assert site.records("egress.end")[0]["ended"] == "malformed_answer"


async def test_a_gzip_that_explodes_is_held_by_the_sandboxs_pace_alone(tmp_path: Path) -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)

    async def explode(visit: Visit) -> None:
        await visit.send(answer(bomb, 200, "Content-Encoding: gzip"))

    async with rig(tmp_path) as site:
        site.set(secret())
        site.origin.answer = explode
        async with site.connect() as stream:
            await stream.send(get())
            assert await stream.receive()
        assert site.records("egress.end")[0]["ended"] in {"sandbox_gone", "complete"}


async def test_a_head_answer_has_no_body(tmp_path: Path) -> None:
    async def head(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n")

    async with rig(tmp_path) as site, site.connect() as stream:
        site.set(secret())
        site.origin.answer = head
        for _ in range(2):
            answered = await site.ask(stream, get(method="HEAD"))
            assert (answered.status, answered.headers["content-length"]) == (200, "99")


async def test_a_host_may_answer_before_it_has_heard_all(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.origin.early = answer(b"too large", 413, "Connection: close")
        async with site.connect() as stream:
            # The rest of the body never comes.
            await stream.send(get("/", "Content-Length: 9999999", method="POST") + b"x" * 100_000)
            answered = await got(stream, b"POST")
            assert (answered.status, answered.body) == (413, b"too large")
        assert site.records("egress.end")[0]["ended"] == "complete"


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        (b"nonsense\r\n\r\n", "malformed_answer"),
        (b"", "broken_off"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "broken_off"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300_000 + b"\r\n\r\n", "malformed_answer"),
        (b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\n\r\n", "malformed_answer"),
    ],
)
async def test_a_host_that_answers_nonsense_is_said_to(
    tmp_path: Path, said: bytes, rule: str
) -> None:
    async def nonsense(visit: Visit) -> None:
        await visit.send(said or b" ")
        await visit.stream.aclose()

    async with rig(tmp_path) as site:
        site.origin.answer = nonsense
        answered = await site.once(get())
        assert answered.status == 502
        assert answered.rule in {rule, "malformed_answer"}
        assert site.records("egress.end")[0]["ended"] == answered.rule


async def test_informational_answers_stay_outside(tmp_path: Path) -> None:
    async def hints(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + answer())

    async with rig(tmp_path) as site:
        site.origin.answer = hints
        async with site.connect() as stream:
            await stream.send(get())
            assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")


async def test_a_host_that_never_comes_to_its_answer_is_given_up(tmp_path: Path) -> None:
    async def hints(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 50)

    async with rig(tmp_path) as site:
        site.origin.answer = hints
        assert (await site.once(get())).rule == "malformed_answer"


async def test_a_silent_host_is_given_up(tmp_path: Path) -> None:
    async def silent(visit: Visit) -> None:
        await anyio.sleep(30)

    async with rig(tmp_path) as site:
        site.limit(silence_s=0.1)
        site.origin.answer = silent
        answered = await site.once(get())
        assert (answered.status, answered.rule) == (502, "broken_off")


async def test_a_request_has_its_time(tmp_path: Path) -> None:
    async def drip(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")
        while True:
            await visit.send(b".")
            await anyio.sleep(0.01)

    async with rig(tmp_path) as site:
        site.limit(request_s=0.2)
        site.origin.answer = drip
        async with site.connect() as stream:
            await stream.send(get())
            with (
                pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)),
                anyio.fail_after(60),
            ):
                while True:
                    await stream.receive()
        assert site.records("egress.end")[0]["ended"] == "request_time"


async def test_bytes_are_limited_both_ways(tmp_path: Path) -> None:
    async def large(visit: Visit) -> None:
        await visit.send(answer(b"x" * 100_000))

    async with rig(tmp_path) as site:
        site.limit(sent_bytes=5_000, received_bytes=50_000)
        refused = await site.once(get("/", method="POST", body=b"x" * 9_000))
        assert (refused.status, refused.rule) == (502, "sent_bytes")
        site.limit(received_bytes=50_000)
        site.origin.answer = large
        async with site.connect() as stream:
            await stream.send(get())
            with pytest.raises(Exception, match=r"(?i)received|closed|incomplete|fewer"):
                await got(stream)
        assert site.records("egress.end")[-1]["ended"] == "received_bytes"


async def test_half_an_answer_does_not_look_like_a_whole_one(tmp_path: Path) -> None:
    async def half(visit: Visit) -> None:
        await visit.send(chunked(b"abc"))
        await visit.stream.aclose()

    async with rig(tmp_path) as site:
        site.origin.answer = half
        async with site.connect() as stream:
            # An answer to such a client ends with its connection, so that must not end well.
            await stream.send(get().replace(b"HTTP/1.1", b"HTTP/1.0"))
            with pytest.raises(anyio.BrokenResourceError), anyio.fail_after(60):
                while True:
                    await stream.receive()
        assert site.records("egress.end")[0]["ended"] in {"broken_off", "malformed_answer"}


async def test_an_old_client_gets_an_answer_that_ends_with_the_connection(tmp_path: Path) -> None:
    async def stream_it(visit: Visit) -> None:
        await visit.send(chunked(b"abc", b"def") + b"0\r\n\r\n")

    async with rig(tmp_path) as site:
        site.origin.answer = stream_it
        async with site.connect() as stream:
            await stream.send(get().replace(b"HTTP/1.1", b"HTTP/1.0"))
            seen = b""
            with pytest.raises(anyio.EndOfStream), anyio.fail_after(60):
                while True:
                    seen += await stream.receive()
        assert seen.endswith(b"\r\n\r\nabcdef")
        assert site.origin.visits[0].first.endswith("HTTP/1.1")


async def test_whatever_a_host_says_it_is_passed_on_cut_off_or_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Damaged answers of every framing, cut anywhere: nothing hangs, nothing fails, no secret."""
    dice = random.Random(5)
    value = VALUE.encode()
    packed = gzip.compress(b"<" + value + b">" * 50)
    wholes = [
        answer(b"<" + value + b">", 200, f"X-Echo: {VALUE}"),
        chunked(b"<" + value) + b"3\r\nabc\r\n0\r\nX-Trailer: t\r\n\r\n",
        answer(packed, 200, "Content-Encoding: gzip"),
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + answer(value),
        b"HTTP/1.0 200 OK\r\n\r\n" + value,
    ]

    async def damaged(visit: Visit) -> None:
        said = bytearray(dice.choice(wholes))
        for _ in range(dice.randrange(4)):
            at = dice.randrange(len(said))
            kind = dice.randrange(3)
            if kind == 0:
                said[at] = dice.randrange(256)
            elif kind == 1:
                del said[at : at + dice.randrange(8)]
            else:
                said[at:at] = dice.choice([b"\r\n", b"\0", b"0\r\n\r\n", b"Content-Length: 1\r\n"])
        cut = dice.randrange(len(said))
        await visit.send(bytes(said[:cut]))
        await visit.send(bytes(said[cut:]))
        await visit.stream.aclose()

    async with rig(tmp_path) as site:
        site.set(secret())
        site.origin.answer = damaged
        for _ in range(150):
            async with site.connect() as stream:
                await stream.send(get("/", f"X-Key: {MARK.decode()}", "Connection: close"))
                seen = b""
                with anyio.fail_after(60), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    while True:
                        seen += await stream.receive()
                assert value not in seen
        ends = site.records("egress.end")
        assert len(ends) == 150
        assert {end["ended"] for end in ends} >= {"complete", "malformed_answer"}
    said = capfd.readouterr()
    assert "gate_failed" not in said.out + said.err
