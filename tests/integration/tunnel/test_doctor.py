"""Each way that a gateway's way can be broken, and what the doctor says of it."""

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import yaml

from intramuros.cli.failures import guarded
from intramuros.cli.main import app
from intramuros.kernel import telemetry
from intramuros.kernel.timing import SystemClock
from intramuros.kernel.wire import Wire
from intramuros.protocol.dial import BadLine
from intramuros.protocol.tickets import Fence, TunnelToken
from intramuros.tunnel.certs import make_ca, make_self_signed_edge, make_server_certificate
from intramuros.tunnel.config import GatewayConfig, UpstreamTls
from intramuros.tunnel.dialer import EdgeAddress, Transport
from intramuros.tunnel.doctor import Finding, Level, examine
from intramuros.tunnel.routes import RouteTable, Upstream
from tests.integration.tunnel.middlebox import ConnectProxy, InspectingBox, serving
from tests.integration.tunnel.rig import (
    DOMAIN,
    TUNNEL,
    Rig,
    running_edge,
    running_gateway,
    running_upstream,
)
from tests.integration.tunnel.test_gateway import FakeEdge
from tests.integration.tunnel.upstream_app import Upstream as Server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
Break = Callable[[Rig, GatewayConfig], object]


@asynccontextmanager
async def standing(rig: Rig) -> AsyncIterator[GatewayConfig]:
    """Run an edge and a private server; gives a configuration with which all works."""
    rig.write("ca.crt", rig.ca.cert_pem)
    async with running_upstream(Server().app) as upstream_port, running_edge(rig) as port:
        config = rig.config([port], upstream_port)
        docs = config.routes.routes["docs"]
        yield replace(config, routes=RouteTable({"docs": docs}, DOMAIN))


async def look(rig: Rig, config: GatewayConfig, minutes: int = 0) -> list[Finding]:
    class Clock(SystemClock):
        def now(self) -> datetime:
            return super().now() + timedelta(minutes=minutes)

    return [finding async for finding in examine(config, rig.home, Clock())]


def broken(found: list[Finding]) -> list[Finding]:
    assert all(bool(each.fix) == (each.level is not Level.OK) for each in found)
    return [each for each in found if each.level is Level.FAILURE]


async def test_where_all_works_nothing_is_broken_and_nobody_is_disturbed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with standing(rig) as config, running_gateway(config):
        found = await look(rig, config)
    assert {each.level for each in found} == {Level.OK}, found
    hops = " | ".join(each.hop for each in found)
    for hop in (
        "configuration",
        "token",
        "certificate",
        "record",
        "policy",
        "TCP",
        "WebSocket",
        "clock",
    ):
        assert hop in hops
    assert found[-1].hop == "route docs"
    # The doctor's link carried nothing: the edge took it and saw it go.
    opened = [r for r in rig.audit("edge-audit.jsonl") if "doctor" in str(r["fields"])]
    assert [record["kind"] for record in opened][:1] == ["link.opened"]


def foreign_token(rig: Rig, _config: GatewayConfig) -> None:
    Rig(rig.home / "other")
    rig.write("tunnel-token", (rig.home / "other" / "tunnel-token").read_bytes())


def other_domain(rig: Rig, _config: GatewayConfig) -> None:
    token = rig.key.mint_tunnel_token(TunnelToken(TUNNEL, f"x.{DOMAIN}", 1))
    rig.write("tunnel-token", token.encode())


def expired(rig: Rig, _config: GatewayConfig) -> None:
    past = SystemClock().now() - timedelta(days=100)
    rig.use_certificate(make_server_certificate(rig.ca, [f"*.{DOMAIN}"], past))


def other_ca(rig: Rig, _config: GatewayConfig) -> None:
    now = SystemClock().now()
    rig.use_certificate(make_server_certificate(make_ca("x", now), [f"*.{DOMAIN}"], now))


def other_key(rig: Rig, _config: GatewayConfig) -> None:
    rig.write("tls.key", make_ca("x", SystemClock().now()).key_pem)


def other_edge_ca(rig: Rig, _config: GatewayConfig) -> None:
    rig.write("edge-ca.crt", make_ca("x", SystemClock().now()).cert_pem)


def without(name: str) -> Break:
    return lambda rig, _config: (rig.home / name).unlink()


def route(host: str, port: int) -> Break:
    table = RouteTable({"docs": Upstream("http", host, port)}, DOMAIN)
    return lambda _rig, config: replace(config, routes=table)


def to(config: GatewayConfig, host: str, port: int) -> GatewayConfig:
    return replace(config, edges=(EdgeAddress(host, port),))


def bad_trust(rig: Rig, config: GatewayConfig) -> GatewayConfig:
    return replace(config, upstream_tls=UpstreamTls(rig.home / "nowhere.pem"))


def bad_record(rig: Rig, config: GatewayConfig) -> GatewayConfig:
    return replace(config, audit_file=rig.home / "tls.crt" / "x")


def bad_policy(rig: Rig, config: GatewayConfig) -> GatewayConfig:
    return replace(config, policy_file=rig.write("policy.cedar", b"permit(nonsense"))


BROKEN: list[tuple[Break, str, str, str]] = [
    (without("tunnel-token"), "token", "tunnel-token", "gateway init"),
    (without("control.pub"), "token", "control.pub", "public key"),
    (foreign_token, "token", "not signed by this control plane", "gateway init"),
    (other_domain, "token", "tunnel_domain is", "tunnel_domain"),
    (expired, "certificate", "expired", "renew"),
    (other_ca, "certificate", "does not fit", "renew"),
    (other_key, "certificate", "MISMATCH", "private key"),
    (without("tls.crt"), "certificate", "certificate", "init"),
    (bad_policy, "policy", "policy.cedar", ""),
    (bad_record, "record", "not writable", "audit_file"),
    (without("edge-ca.crt"), "configuration", "edge_ca_file", "PEM"),
    (lambda _, c: to(c, "nowhere.invalid", 443), "name", "cannot resolve", "resolver"),
    (lambda _, c: to(c, "127.0.0.1", 1), "TCP", "nothing listens", "start the edge"),
    (other_edge_ca, "TLS", "certificate", "edge_ca_file"),
    (lambda _, c: replace(c, edge_proxy="http://127.0.0.1:1"), "proxy", "the proxy", "edge_proxy"),
    (route("127.0.0.1", 1), "route docs", "does not answer", "start the server"),
    (route("10.9.9.9", 80), "route docs", "not allowed", "allowed_ips"),
    (route("nowhere.invalid", 80), "route docs", "cannot resolve", "correct the route"),
    (bad_trust, "configuration", "upstream.tls.ca_file", "PEM"),
]


@pytest.mark.parametrize(("spoil", "hop", "says", "do"), BROKEN)
async def test_the_broken_hop_is_named_with_what_to_do(
    tmp_path: Path, spoil: Break, hop: str, says: str, do: str
) -> None:
    rig = Rig(tmp_path)
    async with standing(rig) as config:
        changed = spoil(rig, config)
        failed = broken(await look(rig, changed if isinstance(changed, GatewayConfig) else config))
    assert failed[0].hop.endswith(hop)
    assert says in failed[0].what
    assert do in failed[0].fix
    # What comes after it is looked at all the same, and only what hangs on it is broken too.
    assert {each.hop.split(" ")[-1] for each in failed[1:]} <= {"token"}


async def test_a_rotated_token_is_told_by_the_edge(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with standing(rig) as config:
        statement = rig.key.mint_fence(Fence(TUNNEL, 2), rig.clock.now().timestamp())
        assert await rig.dialer(config.edges[0].port).fence(statement) == []
        (failed,) = broken(await look(rig, config))
    assert failed.hop.endswith(" token")
    assert "stale_token" in failed.what
    assert "fetch the new token" in failed.fix


@pytest.mark.parametrize(("minutes", "says"), [(5, "ahead of"), (-4, "behind")])
async def test_t14_a_wrong_clock_is_told_with_how_much(
    tmp_path: Path, minutes: int, says: str
) -> None:
    rig = Rig(tmp_path)
    async with standing(rig) as config:
        (failed,) = broken(await look(rig, config, minutes))
    assert failed.hop.endswith(" clock")
    assert says in failed.what
    told_s = int(failed.what.removeprefix("this clock is ").split(" ")[0])
    assert abs(told_s - abs(minutes) * 60) < 10
    assert "NTP" in failed.fix


@pytest.mark.parametrize(
    ("proxy", "says"),
    [(ConnectProxy("Basic x"), "does not accept us"), (ConnectProxy(None, 403), "does not let")],
)
async def test_t39_a_proxy_that_refuses_is_the_broken_hop(
    tmp_path: Path, proxy: ConnectProxy, says: str
) -> None:
    rig = Rig(tmp_path)
    async with standing(rig) as config, serving(proxy.handle) as port:
        through = replace(config, edge_proxy=f"http://127.0.0.1:{port}")
        (failed,) = broken(await look(rig, through))
    assert failed.hop.endswith(" proxy")
    assert says in failed.what


async def test_t39_a_box_that_opens_tls_is_a_warning_or_the_broken_hop(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with standing(rig) as config, AsyncExitStack() as stack:
        ca, pair = make_self_signed_edge(["127.0.0.1"], rig.clock.now())
        (rig.home / "box.pem").write_bytes(pair.cert_pem + pair.key_pem)
        trust = ssl.create_default_context(cadata=rig.edge_ca.decode())
        rig.write("edge-ca.crt", rig.edge_ca + ca)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(rig.home / "box.pem")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        box = InspectingBox(config.edges[0].port, context, trust)
        port = await stack.enter_async_context(serving(box.handle))
        found = await look(rig, to(config, "127.0.0.1", port))
        assert broken(found) == []
        (warned,) = [each for each in found if each.level is Level.WARNING]
        assert "opens TLS" in warned.what
        direct = replace(to(config, "127.0.0.1", port), edge_transport=Transport.DIRECT)
        (failed,) = broken(await look(rig, direct))
        assert failed.hop.endswith(" TLS")
        assert "websocket" in failed.fix


class Deaf(FakeEdge):
    """Hangs up on those who speak HTTP."""

    async def handle(self, wire: Wire) -> None:
        with suppress(BadLine):
            await super().handle(wire)


async def test_websocket_frames_that_do_not_pass(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with standing(rig) as config, anyio.create_task_group() as group:
        # It speaks our frames and nothing else.
        port = await group.start(Deaf(rig).serve)
        found = await look(rig, to(config, "127.0.0.1", port))
        assert broken(found) == []
        assert any("WebSocket" in f.hop and f.level is Level.WARNING for f in found)
        only = replace(to(config, "127.0.0.1", port), edge_transport=Transport.WEBSOCKET)
        (failed,) = broken(await look(rig, only))
        assert failed.hop.endswith(" WebSocket")
        group.cancel_scope.cancel()


async def test_a_private_server_with_a_certificate_that_nobody_believes(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    now = rig.clock.now()
    pair = make_server_certificate(make_ca("x", now), ["127.0.0.1"], now)
    rig.write("up.crt", pair.cert_pem)
    rig.write("up.key", pair.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(rig.home / "up.crt", rig.home / "up.key")
    async with standing(rig) as config, running_upstream(Server().app, context) as port:
        there = RouteTable({"docs": Upstream("https", "127.0.0.1", port)}, DOMAIN)
        trust = UpstreamTls(rig.home / "edge-ca.crt")
        found = await look(rig, replace(config, routes=there, upstream_tls=trust))
    (failed,) = broken(found)
    assert failed.hop == "route docs"
    assert "ca_file" in failed.fix


async def test_a_certificate_that_ends_soon_is_a_warning(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    soon = make_server_certificate(rig.ca, [f"*.{DOMAIN}"], rig.clock.now(), timedelta(days=3))
    rig.use_certificate(soon)
    async with standing(rig) as config:
        found = await look(rig, config)
    assert broken(found) == []
    assert [each.hop for each in found if each.level is Level.WARNING] == ["certificate"]


async def test_the_command_has_a_status_for_each_kind_of_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    # Loggers keep the standard error they were set up with, and this one ends with the test.
    monkeypatch.setattr(telemetry, "configure", lambda **_: None)

    async def status(*arguments: str) -> int:
        command = partial(app, ["gateway", "doctor", *arguments], standalone_mode=False)
        return await anyio.to_thread.run_sync(guarded, command)

    async with standing(rig) as config:
        text = yaml.safe_dump(
            {
                "tunnel_domain": DOMAIN,
                "tls": {"cert_file": "tls.crt", "key_file": "tls.key"},
                "routes": {"docs": str(config.routes.routes["docs"])},
                "upstream": {"allowed_ips": ["127.0.0.1"]},
                "edge": [str(config.edges[0])],
                "edge_ca_file": "edge-ca.crt",
                "token_file": "tunnel-token",
                "control_key_file": "control.pub",
                "audit_file": "gateway-audit.jsonl",
            }
        )
        file = rig.write("gateway.yaml", text.encode())
        assert await status("--config", str(file)) == 0
        assert "route docs" in capsys.readouterr().out
        (rig.home / "tunnel-token").unlink()
        assert await status("--config", str(file), "--json") == 1
        told = capsys.readouterr()
        # The edge runs in this process, and what it logs is printed before and behind.
        report, _ = json.JSONDecoder().raw_decode(told.out[told.out.index("{\n") :])
        assert report["works"] is False
        assert next(h["hop"] for h in report["hops"] if h["level"] == "failure") == "token"
        assert "error: broken: token" in told.err
        file.write_text("routes: 1")
        assert await status("--config", str(file)) == 2
