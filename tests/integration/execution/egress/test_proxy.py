import ssl
from pathlib import Path

import anyio
import pytest
from anyio.streams.tls import TLSStream

from intramuros.execution.egress.policy import Networking, Policy, parse_hosts, read_networking
from intramuros.execution.egress.secrets import Secrets
from intramuros.execution.record import RecordFailed
from tests.integration.execution.egress.rig import NAME, get, got, own, rig, secret

pytestmark = pytest.mark.anyio


async def test_https_is_ended_here_and_begun_anew_outside(tmp_path: Path) -> None:
    async with rig(tmp_path, tls=True) as site:
        async with site.secure() as stream:
            assert isinstance(stream, TLSStream)
            answer = await site.ask(stream, get("/a?b=c", "X-Mine: 1"))
            assert (answer.status, answer.body) == (200, b"ok")
        assert site.origin.visits[0].first == "GET /a?b=c HTTP/1.1"
        assert site.origin.visits[0].header("x-mine") == ["1"]
        asked, ended = site.records("egress")
        assert (asked["host"], asked["port"], asked["method"], asked["path"]) == (
            NAME, site.port, "GET", "/a",
        )  # fmt: skip
        assert (asked["verdict"], asked["rule"]) == ("allow", "unrestricted")
        assert (ended["status"], ended["response_bytes"], ended["ended"]) == (200, 2, "complete")


async def test_http2_is_not_offered(tmp_path: Path) -> None:
    async with rig(tmp_path, tls=True) as site, site.secure() as stream:
        from anyio.streams.tls import TLSAttribute

        assert stream.extra(TLSAttribute.alpn_protocol) == "http/1.1"
        assert (await site.ask(stream, get())).status == 200


async def test_one_connection_carries_many_requests_on_one_connection_outside(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, tls=True) as site, site.secure() as stream:
        for number in range(5):
            assert (await site.ask(stream, get(f"/{number}"))).status == 200
        # Two at once: what came ahead is not lost.
        await stream.send(get("/5") + get("/6"))
        assert (await got(stream)).status == 200
        assert (await got(stream)).status == 200
        assert [v.first.split()[1] for v in site.origin.visits] == [f"/{n}" for n in range(7)]
        assert site.origin.connections == 1


@pytest.mark.parametrize("sni", ["evil.test", "x.api.test"])
async def test_a_server_name_that_was_not_looked_up_is_dropped(tmp_path: Path, sni: str) -> None:
    async with rig(tmp_path, tls=True) as site:
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            async with site.secure(sni=sni):
                pass
        assert site.verdicts() == [("deny", "server_name")]
        assert site.names.asked == []


async def test_tls_without_a_server_name_is_dropped(tmp_path: Path) -> None:
    async with rig(tmp_path, tls=True) as site:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        async with site.connect() as stream:
            with pytest.raises((ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError)):
                await TLSStream.wrap(stream, ssl_context=context, server_side=False)
        assert site.verdicts() == [("deny", "server_name")]
        assert site.origin.connections == 0


async def test_host_that_is_another_than_the_server_name_is_refused(tmp_path: Path) -> None:
    async with rig(tmp_path, tls=True) as site:
        async with site.secure() as stream:
            answer = await site.ask(stream, get(host="evil.test"))
        assert (answer.status, answer.rule) == (421, "host_mismatch")
        assert site.verdicts() == [("deny", "host_mismatch")]
        assert site.names.asked == []


async def test_a_name_that_is_no_longer_allowed_is_not_dialled(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.set(
            policy=Policy(own(site.port), read_networking({"type": "limited", "allowed_hosts": []}))
        )
        async with site.connect() as stream:
            await stream.send(get())
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        assert site.verdicts() == [("deny", "environment_does_not_allow")]
        assert site.origin.connections == 0


async def test_rules_that_change_hold_for_the_next_request_of_a_connection(tmp_path: Path) -> None:
    async with rig(tmp_path) as site, site.connect() as stream:
        assert (await site.ask(stream, get())).status == 200
        site.gate.renew(Policy(own(site.port, deny=parse_hosts([NAME])), Networking()), Secrets())
        answer = await site.ask(stream, get())
        assert (answer.status, answer.rule) == (403, "worker_denies")
        assert len(site.origin.visits) == 1


async def test_a_port_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        async with site.connect(port=site.port + 1 if site.port < 65535 else 1) as stream:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        assert site.verdicts() == [("deny", "port_not_allowed")]


@pytest.mark.parametrize(("port", "first"), [(443, get()), (80, b"\x16\x03\x01\x00\x05hello")])
async def test_tls_is_for_443_and_only_for_443(tmp_path: Path, port: int, first: bytes) -> None:
    async with rig(tmp_path) as site:
        async with site.connect(port=port) as stream:
            await stream.send(first)
            answer = await got(stream)
        assert answer.rule == "wrong_scheme"
        assert site.names.asked == []


async def test_a_program_that_does_not_trust_the_authority_is_recorded(tmp_path: Path) -> None:
    async with rig(tmp_path, tls=True) as site:
        async with site.connect() as stream:
            with pytest.raises(ssl.SSLCertVerificationError):
                await TLSStream.wrap(
                    stream, hostname=NAME, ssl_context=ssl.create_default_context()
                )
        assert site.verdicts() == [("deny", "handshake")]
        assert site.origin.connections == 0


async def test_a_listed_host_passes_unseen_with_its_own_certificate(tmp_path: Path) -> None:
    async with rig(tmp_path, tls=True, pass_through=parse_hosts([NAME])) as site:
        site.gate.renew(site.gate._outlet.policy, Secrets([secret()]))
        context = ssl.create_default_context(cafile=str(tmp_path / "upstream.pem"))
        async with site.connect() as stream:
            tls = await TLSStream.wrap(
                stream, hostname=NAME, ssl_context=context, standard_compatible=False
            )
            answer = await site.ask(tls, get("/", f"X-A: {secret().placeholder}"))
            assert answer.status == 200
        assert site.origin.visits[0].header("x-a") == [secret().placeholder]
        asked, ended = site.records("egress")
        assert (asked["rule"], "path" in asked, "secrets" in asked) == (
            "pass_through",
            False,
            False,
        )
        assert ended["request_bytes"] > 100
        assert ended["response_bytes"] > 100


async def test_a_listed_host_is_held_to_its_name_too(tmp_path: Path) -> None:
    async with rig(tmp_path, tls=True, pass_through=parse_hosts([NAME])) as site:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        async with site.connect() as stream:
            with pytest.raises(ssl.SSLError):
                await TLSStream.wrap(stream, hostname="evil.test", ssl_context=context)
        assert site.verdicts() == [("deny", "server_name")]
        assert site.origin.connections == 0


async def test_what_cannot_be_recorded_does_not_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as site:

        async def full(kind: str, **fields: object) -> None:
            raise RecordFailed("disk full")

        monkeypatch.setattr(site.proxy.record, "write", full)
        answer = await site.once(get())
        assert (answer.status, answer.rule) == (503, "not_recorded")
        site.set(policy=Policy(own(site.port, pass_through=parse_hosts([NAME])), Networking()))
        async with site.connect() as stream:
            await stream.send(get())
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        assert site.origin.connections == 0
        assert site.names.asked == []


async def test_too_many_connections_are_refused(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.limit(connections=1)
        async with site.connect() as first:
            assert (await site.ask(first, get())).status == 200
            async with site.connect() as second:
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await second.receive()
            assert (await site.ask(first, get())).status == 200
        assert ("deny", "connections") in site.verdicts()


async def test_a_sandbox_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.limit(head_s=0.1)
        async with site.connect() as stream:
            assert (await got(stream)).rule == "silent"
        async with site.connect() as stream:
            await stream.send(b"GET / HT")
            assert (await got(stream)).rule == "head_time"
        assert site.origin.connections == 0


async def test_two_sandboxes_do_not_share_what_they_have(tmp_path: Path) -> None:
    async with rig(tmp_path) as site:
        site.set(secret())
        mine = site.gate
        site.gate = site.proxy.gate("sesn_2", Policy(own(site.port), Networking()), Secrets())
        await site.once(get("/", f"X-A: {secret().placeholder}"))
        site.gate = mine
        await site.once(get("/", f"X-A: {secret().placeholder}"))
        theirs, ours = site.origin.visits
        assert theirs.header("x-a") == [secret().placeholder]
        assert ours.header("x-a") != [secret().placeholder]
        assert [r["session_id"] for r in site.records("egress.request")] == ["sesn_2", "sesn_1"]
