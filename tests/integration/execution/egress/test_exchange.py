import base64
import gzip
import json
import random
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from intramuros.execution.egress.policy import Networking, Policy, parse_hosts
from intramuros.execution.egress.pool import REST_S
from intramuros.execution.egress.secrets import HeaderRule, basic
from tests.fakes.origin import Visit, answer
from tests.integration.execution.egress.rig import MARK, NAME, VALUE, get, got, own, rig, secret

pytestmark = pytest.mark.anyio

CHUNKED = "Transfer-Encoding: chunked"


def post(body: bytes, *lines: str) -> bytes:
    return get("/", *lines, method="POST", body=body)


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (get("/", "Content-Length: 3", CHUNKED, method="POST"), "ambiguous_length"),
        (get("/", "X-A: 1", " folded"), "folded_header"),
        (get("http://evil.test/"), "absolute_form"),
        (get("evil.test:443", method="CONNECT"), "connect"),
        (get("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"), "upgrade"),
        (get("/", "HTTP2-Settings: AA"), "upgrade"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "malformed"),
        (get(method="TRACE"), "trace"),
        (get(host="evil.test"), "host_mismatch"),
        (get("/", f"Host: {NAME}"), "malformed"),
        (get("/", "X-Big: " + "a" * 70_000), "head_too_large"),
        (b"\x00\xff\r\n\r\n", "malformed"),
    ],
)  # fmt: skip
async def test_a_request_that_could_be_read_in_two_ways_is_answered_and_not_dialled(
    tmp_path: Path, raw: bytes, rule: str
) -> None:
    async with rig(tmp_path) as site:
        async with site.connect() as stream:
            await stream.send(raw)
            answered = await got(stream)
        assert answered.rule == rule
        assert 400 <= answered.status < 500
        assert site.verdicts() == [("deny", rule)]
        assert site.names.asked == []
        assert site.origin.connections == 0


async def test_a_second_request_cannot_hide_in_the_body_of_the_first(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        hidden = get("/hidden", host="evil.test")
        async with site.connect() as stream:
            assert (await site.ask(stream, post(hidden))).status == 200
        assert [v.first for v in site.origin.visits] == ["POST / HTTP/1.1"]
        assert site.origin.visits[0].body == hidden
        # And what follows a request is judged like any other.
        async with site.connect() as stream:
            await stream.send(get("/1") + hidden)
            assert (await got(stream)).status == 200
            assert (await got(stream)).rule == "host_mismatch"
        assert len(site.origin.visits) == 2


async def test_R070_the_value_is_put_in_outside(tmp_path: Path) -> None:
    async with rig(tmp_path, tls=True) as site:
        site.set(secret())
        async with site.secure() as stream:
            mark = MARK.decode()
            answered = await site.ask(
                stream, post(json.dumps({"key": mark}).encode(), f"Authorization: Bearer {mark}",
                             "Content-Type: application/json")
            )  # fmt: skip
        assert answered.status == 200
        visit = site.origin.visits[0]
        assert visit.header("authorization") == [f"Bearer {VALUE}"]
        assert json.loads(visit.body) == {"key": VALUE}
        assert visit.header("content-length") == [str(len(visit.body))]
        assert site.records("egress.request")[0]["secrets"] == ["TOKEN"]
        assert VALUE not in (tmp_path / "audit.jsonl").read_text()


async def test_R072_paths_and_queries_carry_the_literal_placeholder(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.set(secret())
        await site.once(get(f"/{MARK.decode()}?k={MARK.decode()}"))
        assert site.origin.visits[0].first == f"GET /{MARK.decode()}?k={MARK.decode()} HTTP/1.1"
        assert "secrets" not in site.records("egress.request")[0]


@pytest.mark.parametrize(
    ("settings", "header", "body"),
    [
        ({"hosts": parse_hosts(["other.test"])}, MARK, MARK),
        ({"header": False}, MARK, VALUE.encode()),
        ({"body": False}, VALUE.encode(), MARK),
    ],
)
async def test_R072_elsewhere_the_placeholder_leaves_unchanged(
    tmp_path: Path, settings: dict[str, object], header: bytes, body: bytes
) -> None:
    async with rig(tmp_path) as site:
        site.set(secret(**settings))
        await site.once(post(b"a=" + MARK, f"X-Key: {MARK.decode()}"))
        visit = site.origin.visits[0]
        assert visit.header("x-key") == [header.decode()]
        assert visit.body == b"a=" + body


async def test_a_long_body_is_filled_as_it_passes(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.limit(filled_bytes=1000)
        site.set(secret())
        body = b"x" * 200_000 + MARK + b"y" * 100_000
        async with site.connect() as stream:
            assert (await site.ask(stream, post(body))).status == 200
        visit = site.origin.visits[0]
        assert visit.header("transfer-encoding") == ["chunked"]
        assert visit.body == body.replace(MARK, VALUE.encode())
        # Recorded before it was read, so as what may go along.
        assert site.records("egress.request")[0]["secrets"] == ["TOKEN"]


async def test_chunks_are_filled_even_where_they_cut_a_placeholder(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.set(secret())
        half = len(MARK) // 2
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (MARK[:half], MARK[half:], b"."))
        async with site.connect() as stream:
            await stream.send(get("/", "Transfer-Encoding: chunked", method="POST") + chunks)
            await stream.send(b"0\r\n\r\n")
            assert (await got(stream, b"POST")).status == 200
        assert site.origin.visits[0].body == VALUE.encode() + b"."


async def test_a_compressed_body_keeps_its_placeholder(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.set(secret())
        packed = gzip.compress(MARK)
        await site.once(post(packed, "Content-Encoding: gzip"))
        assert site.origin.visits[0].body == packed


async def test_a_value_that_would_break_the_request_stops_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.set(secret(value="a\r\nX-Evil: 1"))
        answered = await site.once(get("/", f"X-Key: {MARK.decode()}"))
        assert (answered.status, answered.rule) == (400, "secret_unfit")
        assert site.origin.connections == 0


@pytest.mark.parametrize("value", [" padded ", "tab\t", "caf\u00e9"])
async def test_a_value_that_the_parser_will_not_have_is_quoted_nowhere(
    tmp_path: Path, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with rig(tmp_path) as site:
        site.set(secret(value=value))
        answered = await site.once(get("/", f"X-Key: {MARK.decode()}"))
        assert answered.status in (200, 400)
        told = capsys.readouterr()
        assert value not in told.out + told.err + (tmp_path / "audit.jsonl").read_text()
        assert value.encode() not in answered.body


async def test_requests_with_flipped_bytes_reach_nobody_else(tmp_path: Path) -> None:
    dice = random.Random(7)
    mark = MARK.decode()
    whole = get("/x", f"Authorization: Bearer {mark}", method="POST", body=b"k=" + MARK)
    async with rig(tmp_path) as site:
        site.limit(rate=1e6, burst=10_000, silence_s=0.2, head_s=0.2)
        site.set(secret())
        for _ in range(80):
            raw = bytearray(whole)
            for _ in range(dice.randrange(1, 4)):
                raw[dice.randrange(len(raw))] = dice.randrange(256)
            async with site.connect() as stream:
                await stream.send(bytes(raw))
                await stream.send_eof()
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    while await stream.receive():
                        pass
        assert set(site.names.asked) == {NAME}
        assert {visit.header("host")[0] for visit in site.origin.visits} == {f"{NAME}:{site.port}"}
        asked = [verdict for verdict, _ in site.verdicts()]
        assert asked.count("deny") > 5
        assert asked.count("allow") >= len(site.origin.visits)


async def echo(visit: Visit) -> None:
    said = visit.head + b"\n" + visit.body
    await visit.send(answer(said, 200, f"X-Echo: {visit.header('x-key')[0]}", "Alt-Svc: h3=:443"))


async def test_an_echoed_secret_does_not_come_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.set(secret())
        site.origin.answer = echo
        mark = MARK.decode()
        answered = await site.once(
            post(MARK, f"X-Key: {mark}", f"Authorization: {basic('u', mark)}")
        )
        assert (
            base64.b64decode(site.origin.visits[0].header("authorization")[0][6:])
            == f"u:{VALUE}".encode()
        )
        assert VALUE not in str(answered.headers)
        assert VALUE.encode() not in answered.body
        assert base64.b64encode(VALUE.encode())[:12] not in answered.body
        assert answered.headers["x-echo"] == mark
        assert "alt-svc" not in answered.headers
        assert MARK in answered.body
        assert site.records("egress.end")[0]["scrubbed"] >= 3


async def test_with_the_switch_off_an_echo_is_not_redacted(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.set(secret(), scrub=False)
        site.origin.answer = echo
        answered = await site.once(get("/", f"X-Key: {MARK.decode()}", "Range: bytes=0-5"))
        assert answered.headers["x-echo"] == VALUE
        assert VALUE.encode() in answered.body
        assert site.origin.visits[0].header("range") == ["bytes=0-5"]


async def test_a_host_with_secrets_is_asked_for_nothing_that_cannot_be_searched(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as site:
        site.set(secret())
        await site.once(get("/", "Accept-Encoding: br, gzip", "Range: bytes=0-3", "If-Range: x"))
        visit = site.origin.visits[0]
        assert visit.header("accept-encoding") == ["identity"]
        assert visit.header("range") == visit.header("if-range") == []
        # Where nothing can be put in, nothing is changed.
        site.set(secret(hosts=parse_hosts(["other.test"])))
        await site.once(get("/", "Accept-Encoding: br, gzip", "Range: bytes=0-3"))
        assert site.origin.visits[1].header("accept-encoding") == ["br, gzip"]
        assert site.origin.visits[1].header("range") == ["bytes=0-3"]


async def test_redirects_are_given_back_and_nothing_is_sent_after_them(tmp_path: Path) -> None:
    async def redirect(visit: Visit) -> None:
        await visit.send(answer(b"", 302, "Location: http://evil.test/"))

    async with rig(tmp_path) as site:
        site.set(secret())
        site.origin.answer = redirect
        answered = await site.once(get("/", f"Authorization: Bearer {MARK.decode()}"))
        assert (answered.status, answered.headers["location"]) == (302, "http://evil.test/")
        assert len(site.origin.visits) == 1
        assert site.names.asked == [NAME]


async def test_one_process_is_lent_a_header_below_one_path(tmp_path: Path) -> None:
    rule = HeaderRule(
        NAME, "/acme/app.git", "authorization", basic("x", "ghp_secret-token"), "repository"
    )
    async with rig(tmp_path) as site:
        site.set(policy=Policy(own(site.port), Networking(parse_hosts([]))))
        assert not site.gate.admits(NAME)
        with site.gate.lend(rule, admit=True) as lease:
            assert site.gate.admits(NAME)
            await site.once(get("/acme/app.git/info/refs", lease.header, "Authorization: mine"))
            await site.once(get("/acme/other.git/info/refs", lease.header))
            await site.once(get("/acme/app.git/info/refs"))
        assert not site.gate.admits(NAME)
        with site.gate.lend(rule, admit=True):
            await site.once(get("/acme/app.git/info/refs", lease.header))
        given, other, plain, after = site.origin.visits
        assert given.header("authorization") == [rule.value]
        for visit in (other, plain, after):
            assert visit.header("authorization") == []
        for visit in site.origin.visits:
            assert visit.header("x-intramuros-lease") == []
        assert site.records("egress.request")[0]["secrets"] == ["repository"]
        assert "ghp_secret" not in (tmp_path / "audit.jsonl").read_text()


async def test_a_sandbox_is_told_to_go_on_with_its_body(tmp_path: Path) -> None:
    async with rig(tmp_path) as site, site.connect() as stream:
        await stream.send(post(b"", "Expect: 100-continue", "Content-Length: 3"))
        assert (await stream.receive()).startswith(b"HTTP/1.1 100 ")
        await stream.send(b"abc")
        assert (await got(stream, b"POST")).status == 200
        assert site.origin.visits[0].body == b"abc"
        assert site.origin.visits[0].header("expect") == []


async def test_a_connection_that_the_host_has_closed_is_not_used_again(tmp_path: Path) -> None:
    async def last(visit: Visit) -> None:
        await visit.send(answer())
        await visit.stream.aclose()

    async with rig(tmp_path) as site:
        site.origin.answer = last
        async with site.connect() as stream:
            for _ in range(3):
                assert (await site.ask(stream, post(b"abc"))).status == 200
                await anyio.sleep(0.02)
        assert site.origin.connections == 3
        assert REST_S > 0


async def test_a_request_too_many_is_refused(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.limit(rate=0.01, burst=3, patience_s=0.0)
        async with site.connect() as stream:
            assert (await site.ask(stream, get())).status == 200
            assert (await site.ask(stream, get())).status == 200
            answered = await site.ask(stream, get())
        assert (answered.status, answered.rule) == (429, "rate")
        assert len(site.origin.visits) == 2
