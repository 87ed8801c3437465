"""The way to a control plane in TLS: straight, by a company's proxy, and what bars it."""

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import trustme

from intramuros.execution import client
from intramuros.execution.client import Away, Work
from intramuros.execution.server import Server, server_of
from intramuros.execution.spills import SpillClient
from intramuros.execution.web.client import WebCallClient
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.forward_proxy import ForwardProxy
from tests.fakes.company_proxy import Company, company
from tests.fakes.control_plane import ENVIRONMENT, KEY, ControlPlane, running
from tests.fakes.tls_front import tls_front

pytestmark = pytest.mark.anyio

NAME = "control.company"  # nothing resolves it: only the proxy knows where it is
URL = f"https://{NAME}"
BASIC = "Basic " + base64.b64encode(b"worker:pw:with:colons").decode()
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Site:
    """A control plane that only a proxy reaches."""

    def __init__(self, plane: ControlPlane, proxy: Company, port: int, folder: Path) -> None:
        self.plane = plane
        self.proxy = proxy
        self.port = port
        self.ca_file = folder / "ca.pem"
        self.credentials = folder / "credentials"
        self.credentials.write_text("worker:pw:with:colons\n")

    def server(self, **changes: Any) -> Server:
        given = {
            "base_url": URL,
            "proxy": f"http://127.0.0.1:{self.proxy.port}",
            "credentials": self.credentials,
            "ca_file": self.ca_file,
            **changes,
        }
        return server_of(**given)

    async def poll(self, server: Server) -> Work | None:
        control = client.ControlPlane(server, ENVIRONMENT, KEY, "w")
        try:
            return await control.poll(None)
        finally:
            await control.aclose()


@asynccontextmanager
async def behind(tmp_path: Path, *, secure: bool = False) -> AsyncIterator[Site]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = None
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
    async with running(ControlPlane()) as plane:
        inner = urlsplit(plane.base_url).port
        assert inner is not None
        async with tls_front(authority, NAME, inner) as port, company(port, context) as proxy:
            proxy.accepts = BASIC
            yield Site(plane, proxy, port, tmp_path)


@pytest.mark.parametrize("secure", [False, True])
async def test_work_is_claimed_through_a_proxy_that_asks_for_a_password(
    tmp_path: Path, secure: bool
) -> None:
    async with behind(tmp_path, secure=secure) as site:
        proxy = f"{'https' if secure else 'http'}://127.0.0.1:{site.proxy.port}"
        site.plane.offer("sesn_1")
        work = await site.poll(site.server(proxy=proxy))
        assert work is not None
        assert work.session_id == "sesn_1"
        head = site.proxy.heads[0].decode()
        assert head.startswith(f"CONNECT {NAME}:443 HTTP/1.1\r\n")
        assert KEY not in head
        assert head.count(BASIC) == 1
        (seen,) = site.plane.seen
        assert seen.bearer.endswith(KEY)


async def test_every_client_goes_that_way(tmp_path: Path) -> None:
    async with behind(tmp_path) as site:
        server = site.server()
        spills = SpillClient(server, Work("work_1", ENVIRONMENT, "session", "sesn_1", "token"))
        web = WebCallClient(server, "key", "w", frozenset({"web_fetch"}))
        for ask in (spills.find, web.poll):
            with pytest.raises(client.Refused) as refused:  # this control plane has neither
                await ask()
            assert refused.value.status == 404
        for made in (spills, web):
            await made.aclose()
        assert len(site.proxy.heads) == 2


async def test_the_environments_proxy_is_taken_but_not_where_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with behind(tmp_path) as site:
        known = "worker:pw%3Awith%3Acolons"
        monkeypatch.setenv("HTTPS_PROXY", f"http://{known}@127.0.0.1:{site.proxy.port}")
        server = site.server(proxy=None, credentials=None)
        assert await site.poll(server) is None
        assert len(site.proxy.heads) == 1
        monkeypatch.setenv("NO_PROXY", "x.example, .company")
        assert site.server(proxy=None, credentials=None).proxy is None
        assert site.server(proxy="none", credentials=None).proxy is None
        assert site.server().proxy is not None, "who names one means it"


async def test_what_is_said_in_the_clear_passes_no_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with behind(tmp_path) as site:
        for name in PROXIES[:3]:
            monkeypatch.setenv(name, f"http://127.0.0.1:{site.proxy.port}")
        server = server_of(site.plane.base_url, None, None, None)
        assert await site.poll(server) is None
        assert site.plane.count("poll") == 1
        assert site.proxy.heads == []
        for url in ("https://localhost:1", "https://[::1]:1", "http://inside.example"):
            assert server_of(url, None, None, None).proxy is None
    with pytest.raises(OperatorError, match="in the clear"):
        server_of("http://inside.example", "http://proxy.company", None, None)


async def test_a_wrong_password_is_said_and_neither_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with behind(tmp_path) as site:
        site.proxy.accepts = "Basic other"
        with pytest.raises(Away, match=r"proxy does not let this pass \(407\)$") as away:
            await site.poll(site.server())
        shown = f"{away.value!r} {site.server()!r} {caplog.text}"
        site.proxy.accepts = BASIC
        assert await site.poll(site.server()) is None
    for secret in (BASIC, BASIC.partition(" ")[2], "pw:with", KEY):
        assert secret not in shown + caplog.text


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", r"let this pass \(403\)$"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "RemoteProtocolError"),
        (b"", "RemoteProtocolError|ReadError|ConnectError"),
    ],
)
async def test_a_proxy_that_does_not_let_us_is_waited_for(
    tmp_path: Path, said: bytes, why: str
) -> None:
    async with behind(tmp_path) as site:
        site.proxy.answer = said
        with pytest.raises(Away, match=why):
            await site.poll(site.server())
        assert site.plane.seen == []


async def test_who_opens_tls_on_the_way_learns_no_key(tmp_path: Path) -> None:
    async with behind(tmp_path) as site:
        (tmp_path / "other.pem").write_bytes(trustme.CA().cert_pem.bytes())
        with pytest.raises(Away, match="ConnectError"):
            await site.poll(site.server(ca_file=tmp_path / "other.pem"))
        assert site.plane.seen == []


async def test_a_proxy_that_is_not_there_is_waited_for() -> None:
    server = Server(URL, ForwardProxy("127.0.0.1", 1))
    control = client.ControlPlane(server, ENVIRONMENT, KEY, "w")
    with pytest.raises(Away, match="ConnectError"):
        await control.poll(None)
    await control.aclose()


def test_what_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for given, says in (
        ({"proxy": None, "credentials": tmp_path / "empty"}, "but no proxy"),
        ({"proxy": "none", "credentials": tmp_path / "empty"}, "but no proxy"),
        ({"credentials": tmp_path / "empty"}, "no credentials"),
        ({"proxy": "http://u:pw@h"}, "proxy holds credentials"),
        ({"proxy": "socks5://h"}, "no address of a proxy"),
        ({"ca_file": tmp_path / "empty"}, "cannot read certificates"),
        ({"ca_file": tmp_path / "none"}, "cannot read certificates"),
    ):
        full: dict[str, Any] = {"proxy": "http://h", "credentials": None, "ca_file": None, **given}
        with pytest.raises(OperatorError, match=says):
            server_of(URL, **full)


async def test_one_context_serves_all_clients() -> None:
    server = Server("https://a.example")
    one = server.client("/x", {}, httpx2.Timeout(1.0))
    assert server.context.verify_mode is ssl.CERT_REQUIRED
    assert server.context.check_hostname
    await one.aclose()
