"""Hosts behind a company's proxy: through a real gate, a proxy on loopback and a real host."""

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from intramuros.execution.egress.company import CompanyProxy
from intramuros.execution.egress.policy import Networking, Policy, parse_hosts
from intramuros.execution.egress.secrets import Secrets
from intramuros.execution.egress.upstream import Dialler, client_context
from intramuros.kernel.forward_proxy import ForwardProxy
from tests.fakes.company_proxy import Company, company
from tests.fakes.origin import ADDRESS
from tests.integration.execution.egress.rig import MARK, NAME, VALUE, Rig, get, own, rig, secret

pytestmark = pytest.mark.anyio

PUBLIC = "203.0.114.7"
BASIC = "Basic " + base64.b64encode(b"worker:pw:with:colons").decode()


class Names:
    """The company's name service: it knows its proxy, and what it is told of the world."""

    def __init__(self, world: dict[str, list[str]] | None = None) -> None:
        self.world = {NAME: [PUBLIC]} if world is None else world
        self.asked: list[str] = []

    async def __call__(self, name: str, port: int) -> list[str]:
        self.asked.append(name)
        known = {"proxy.company": ["127.0.0.1"], **self.world}
        if name not in known:
            raise OSError("no such name")
        return known[name]


@asynccontextmanager
async def behind(
    tmp_path: Path, *, tls: bool = False, secure: bool = False, **how: Any
) -> AsyncIterator[tuple[Rig, Company]]:
    """Give a gate whose public hosts are reached by the proxy alone."""
    names = how.pop("names", None) or Names()
    authority = trustme.CA()
    context = None
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("proxy.company").configure_cert(context)
    async with (
        rig(tmp_path, tls=tls) as site,
        company(site.port, context, address=ADDRESS) as proxy,
    ):
        roots = tmp_path / "upstream.pem"
        roots.write_bytes(roots.read_bytes() + authority.cert_pem.bytes())
        through = CompanyProxy(ForwardProxy("proxy.company", proxy.port, secure, BASIC), **how)
        dialler = Dialler(client_context(roots), names, 2.0, through)
        made = replace(site.proxy, dialler=dialler)
        rules = own(site.port, internal=parse_hosts(["inside.test"]))
        site.gate = made.gate("sesn_1", Policy(rules, Networking()), Secrets([secret()]))
        yield site, proxy


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("tls", [False, True])
async def test_hosts_are_reached_by_name_through_the_proxy(
    tmp_path: Path, tls: bool, secure: bool
) -> None:
    async with behind(tmp_path, tls=tls, secure=secure) as (site, proxy):
        opened = site.secure() if tls else site.connect()
        big = b"x" * 700_000
        async with opened as stream:
            for _ in range(2):
                ask = get("/a", f"X-Key: {MARK.decode()}", method="POST", body=big)
                assert (await site.ask(stream, ask)).status == 200
        first = site.origin.visits[0]
        assert first.header("x-key") == [VALUE]
        assert first.header("proxy-authorization") == []
        assert first.body == big
        assert len(proxy.heads) == site.origin.connections == 1
        asked = proxy.heads[0].decode().split("\r\n")
        assert asked == [
            f"CONNECT {NAME}:{site.port} HTTP/1.1",
            f"Host: {NAME}:{site.port}",
            f"Proxy-Authorization: {BASIC}",
            "",
            "",
        ]


async def test_an_address_that_may_not_be_reached_is_not_asked_for(tmp_path: Path) -> None:
    names = Names({NAME: ["169.254.169.254"]})
    async with behind(tmp_path, names=names, resolves=True) as (site, proxy):
        answered = await site.once(get())
        assert (answered.status, answered.rule) == (502, "address_refused")
        assert proxy.heads == []


async def test_a_name_that_is_unknown_here_is_the_proxys_matter_only_if_told_so(
    tmp_path: Path,
) -> None:
    async with behind(tmp_path, names=Names({})) as (site, proxy):
        assert (await site.once(get())).rule == "unresolvable"
        assert proxy.heads == []
    (tmp_path / "b").mkdir()
    async with behind(tmp_path / "b", names=Names({}), resolves=True) as (site, proxy):
        assert (await site.once(get())).status == 200
        assert len(proxy.heads) == 1


async def test_internal_hosts_go_past_the_proxy(tmp_path: Path) -> None:
    async with behind(tmp_path, names=Names({"inside.test": [ADDRESS]})) as (site, proxy):
        assert (await site.once(get(host="inside.test"), "inside.test")).status == 200
        assert proxy.heads == []


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
         "proxy_credentials"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n<h1>Blocked by policy</h1>", "proxy_refused"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://login.company/\r\n\r\n", "proxy_refused"),
        (b"HTTP/2 200\r\n\r\n", "proxy_failed"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "proxy_failed"),
        (b"HTTP/1.1 2000 x\r\n\r\n", "proxy_failed"),
        (b"x" * 20_000, "proxy_failed"),
        (b"", "proxy_failed"),
    ],
)  # fmt: skip
async def test_a_proxy_that_does_not_let_us_is_said_to(
    tmp_path: Path, said: bytes, rule: str
) -> None:
    async with behind(tmp_path) as (site, proxy):
        proxy.answer = said
        answered = await site.once(get())
        assert (answered.status, answered.rule) == (502, rule)
        assert b"Blocked" not in answered.body
        assert BASIC not in site.audit.read_text()
        assert site.records("egress.end")[0]["ended"] == rule
        assert site.origin.connections == 0


async def test_a_proxy_with_another_certificate_is_not_told_the_credentials(
    tmp_path: Path,
) -> None:
    wrong = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("proxy.company").configure_cert(wrong)
    async with rig(tmp_path) as site, company(site.port, wrong, address=ADDRESS) as proxy:
        through = CompanyProxy(ForwardProxy("proxy.company", proxy.port, True, BASIC))
        dialler = Dialler(client_context(tmp_path / "upstream.pem"), Names(), 2.0, through)
        rules = Policy(own(site.port, internal=parse_hosts([])), Networking())
        site.gate = replace(site.proxy, dialler=dialler).gate("sesn_1", rules, Secrets())
        assert (await site.once(get())).rule == "proxy_failed"
        assert proxy.heads == []


async def test_a_proxy_that_is_not_there_is_said_to(tmp_path: Path) -> None:
    async with behind(tmp_path) as (site, proxy):
        del proxy
        through = CompanyProxy(ForwardProxy("nowhere.company", 3128))
        dialler = Dialler(client_context(tmp_path / "upstream.pem"), Names(), 2.0, through)
        rules = Policy(own(site.port, internal=parse_hosts([])), Networking())
        site.gate = replace(site.proxy, dialler=dialler).gate("sesn_1", rules, Secrets())
        with anyio.fail_after(60):
            assert (await site.once(get())).rule == "proxy_failed"
