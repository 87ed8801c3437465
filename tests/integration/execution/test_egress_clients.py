"""Everyday programs in a real sandbox, over the way out: what they fetch, and how they ask."""

import base64
import gzip
import hashlib
import io
import json
import ssl
import subprocess
import tarfile
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from intramuros.execution.egress import netns
from intramuros.execution.egress.company import CompanyProxy
from intramuros.execution.egress.policy import OwnRules, parse_hosts
from intramuros.execution.egress.station import Ground, Station
from intramuros.execution.egress.upstream import Dialler, client_context
from intramuros.execution.record import Record
from intramuros.execution.sandbox.base import Level, Sandbox, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.kernel.forward_proxy import ForwardProxy
from intramuros.kernel.timing import SystemClock
from tests.fakes.company_proxy import company
from tests.fakes.origin import ADDRESS, Origin, Visit, answer, origin
from tests.integration.execution.egress.whole import SESSION, VALUE, needs, rules

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

HOSTS = ("api.test", "git.test", "other.test")
PROXY = "http://198.18.0.1:3128"


def wheel() -> bytes:
    """Return the smallest package that pip installs."""
    made = io.BytesIO()
    info = "demo_pkg-1.0.dist-info"
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("demo_pkg.py", "answer = 42\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo-pkg\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return made.getvalue()


def npm_package() -> bytes:
    """Return the smallest package that npm installs."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as file:
        for name, text in {
            "package/package.json": json.dumps({"name": "demo-pkg", "version": "1.0.0"}),
            "package/index.js": "module.exports = 42\n",
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            file.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


def repository(folder: Path) -> Path:
    """Make a repository that can be fetched as plain files."""

    def run(*argv: str) -> None:
        subprocess.run(argv, cwd=folder, check=True, capture_output=True)

    author = ("-c", "user.name=x", "-c", "user.email=x@x", "-c", "init.defaultBranch=main")
    run("git", *author, "init", "-q", "work")
    (folder / "work" / "README").write_text("hello from git\n")
    run("git", "-C", "work", "add", ".")
    run("git", *author, "-C", "work", "commit", "-qm", "first")
    run("git", "clone", "-q", "--bare", "work", "app.git")
    run("git", "-C", "app.git", "update-server-info")
    return folder / "app.git"


class Town:
    """What the host of these tests serves, by path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheel, self.package = wheel(), npm_package()

    async def __call__(self, visit: Visit) -> None:
        path = visit.first.split(" ")[1].partition("?")[0]
        if visit.header("upgrade") == ["websocket"]:
            await self._websocket(visit)
        elif path.startswith("/simple/"):
            await visit.send(answer(b'<a href="/demo_pkg-1.0-py3-none-any.whl">x</a>', 200,
                                    "content-type: text/html"))  # fmt: skip
        elif path.endswith(".whl"):
            await visit.send(answer(self.wheel))
        elif path == "/demo-pkg":
            await visit.send(answer(self._npm(visit), 200, "content-type: application/json"))
        elif path.endswith(".tgz"):
            await visit.send(answer(self.package))
        elif path.startswith("/app.git/"):
            file = self.folder / path[1:]
            known = file.is_file()
            await visit.send(answer(file.read_bytes() if known else b"", 200 if known else 404))
        elif path == "/packed":
            said = gzip.compress(visit.head * 50)
            await visit.send(answer(said, 200, "content-encoding: gzip"))
        elif path == "/chunks":
            # Cut in the very middle of whatever stands in it.
            half = len(visit.head) // 2
            parts = b"".join(b"%x\r\n%s\r\n" % (1, visit.head[at : at + 1]) for at in range(half))
            rest = visit.head[half:]
            await visit.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + parts)
            await visit.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest))
        else:
            await visit.send(answer(visit.head + b"\n" + visit.body))

    def _npm(self, visit: Visit) -> bytes:
        digest = "sha512-" + base64.b64encode(hashlib.sha512(self.package).digest()).decode()
        url = f"https://{visit.header('host')[0]}/demo-pkg-1.0.0.tgz"
        version = {"name": "demo-pkg", "version": "1.0.0",
                   "dist": {"tarball": url, "integrity": digest}}  # fmt: skip
        found = {"name": "demo-pkg", "dist-tags": {"latest": "1.0.0"},
                 "versions": {"1.0.0": version}}  # fmt: skip
        return json.dumps(found).encode()

    async def _websocket(self, visit: Visit) -> None:
        key = visit.header("sec-websocket-key")[0].encode()
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        await visit.send(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )
        while True:
            await visit.send(await visit.stream.receive())


@dataclass
class Site:
    sandbox: Sandbox
    secure: Origin
    plain: Origin
    audit: Path
    record: Record

    async def run(self, script: str) -> tuple[int, str]:
        done = await self.sandbox.exec(["bash", "-c", script], timeout_s=40.0)
        return done.exit_code, (done.stdout + done.stderr).decode()

    def told(self, kind: str) -> list[dict[str, Any]]:
        self.record.settle()
        records = [json.loads(line) for line in self.audit.read_text().splitlines()]
        return [record["fields"] for record in records if record["kind"] == kind]

    async def ended(self, count: int = 1) -> list[dict[str, Any]]:
        """Return what requests came to, once there are so many."""
        for _ in range(500):
            if len(found := self.told("egress.end")) >= count:
                return found
            await anyio.sleep(0.01)
        raise AssertionError("a request does not end")


async def nearby(name: str, port: int) -> Sequence[str]:
    return [ADDRESS]


class Open:
    """Makes a site: hosts, a worker's way out, and a sandbox on it."""

    def __init__(self, stack: AsyncExitStack, provider: BubblewrapProvider, folder: Path) -> None:
        self._stack, self._provider, self._folder = stack, provider, folder

    async def __call__(self, *, behind_proxy: bool = False) -> Site:
        stack, folder = self._stack, self._folder
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*HOSTS).configure_cert(context)
        roots = folder / "roots.pem"
        authority.cert_pem.write_to_path(str(roots))
        secure = await stack.enter_async_context(origin(context))
        plain = await stack.enter_async_context(origin())
        secure.answer = plain.answer = Town(folder)
        proxy, resolver = None, nearby
        internal = parse_hosts(HOSTS)
        if behind_proxy:
            made = await stack.enter_async_context(company(secure.port, address=ADDRESS))
            proxy = CompanyProxy(ForwardProxy("127.0.0.1", made.port), resolves=True)
            internal, resolver = parse_hosts([]), nobody
        own = OwnRules(
            allow=parse_hosts(HOSTS), internal=internal, ports=frozenset({secure.port, plain.port})
        )
        dialler = Dialler(client_context(roots), resolver, proxy=proxy)
        clock = SystemClock()
        audit = folder / "audit.jsonl"
        record = Record(audit, clock)
        stack.callback(record.close)
        ground = Ground(folder / "egress", own, dialler, 4)
        station = await stack.enter_async_context(Station.opened(ground, record, clock))
        passage = station.passage(SESSION, rules())
        spec = SandboxSpec(egress="names", trust=passage.trust, environment=passage.environment)
        sandbox = await self._provider.create(spec, SESSION)
        await station.captures.attach(sandbox, passage)
        return Site(sandbox, secure, plain, audit, record)


async def nobody(name: str, port: int) -> Sequence[str]:
    if name == "127.0.0.1":
        return [name]
    raise OSError("names of the world are not known here")


@pytest.fixture
async def opened(provider: BubblewrapProvider, tmp_path: Path) -> AsyncIterator[Open]:
    found = netns.probe()
    if found.level is not Level.OK:
        pytest.skip(f"no egress on this host: {found.what}: {found.fix}")
    async with AsyncExitStack() as stack:
        yield Open(stack, provider, tmp_path)


async def test_clients_that_speak_http2_do_without(opened: Open) -> None:
    needs("curl")
    site = await opened()
    ask = f"curl -sS --http2 -o /dev/null -w '%{{http_version}} %{{http_code}}' https://api.test:{site.secure.port}/"
    assert await site.run(ask) == (0, "1.1 200")
    ask = f"curl -sS --http2 -o /dev/null -w '%{{http_version}} %{{http_code}}' http://api.test:{site.plain.port}/"
    assert (await site.run(ask))[1].endswith("400")  # the upgrade to h2c is refused, and said to be
    ask = f"curl -sS --http2-prior-knowledge -m 5 http://api.test:{site.plain.port}/"
    assert (await site.run(ask))[0] != 0
    assert site.plain.connections == 0
    assert {r["rule"] for r in site.told("egress.request") if r["verdict"] == "deny"} == {
        "upgrade", "malformed",
    }  # fmt: skip


async def test_programs_that_insist_on_a_proxy_have_one(opened: Open) -> None:
    needs("curl")
    site = await opened()
    both = f"export http_proxy={PROXY} https_proxy={PROXY};"
    header = '-H "X-Key: $API_TOKEN"'
    status, said = await site.run(
        f"{both} curl -sS {header} https://api.test:{site.secure.port}/in "
        f"&& curl -sS {header} http://api.test:{site.plain.port}/clear"
    )
    assert status == 0, said
    assert site.secure.visits[0].header("x-key") == [VALUE]
    assert site.plain.visits[0].header("x-key") == [VALUE]
    assert VALUE not in said
    status, said = await site.run(
        f"{both} /usr/bin/python3 -c 'import urllib.request as u;"
        f'print(u.urlopen("https://other.test:{site.secure.port}/py").read().decode())\''
    )
    assert (status, "GET /py HTTP/1.1" in said) == (0, True), said
    # What is not allowed is not allowed this way either, by name or by address.
    for target in ("https://evil.test/", "https://127.0.0.1/", "http://169.254.169.254/"):
        status, said = await site.run(f"{both} curl -sSf {target}")
        assert status in (22, 56), said
    denied = [r for r in site.told("egress.request") if r["verdict"] == "deny"]
    assert {r["rule"] for r in denied} == {"worker_does_not_allow", "malformed_name"}


async def test_pip_npm_and_git_fetch_what_they_need(opened: Open, tmp_path: Path) -> None:
    site = await opened()
    host = f"https://api.test:{site.secure.port}"
    if await has(site, "/usr/bin/python3 -m pip --version"):
        status, said = await site.run(
            f"/usr/bin/python3 -m pip install -q --disable-pip-version-check --no-cache-dir "
            f"-i {host}/simple/ --target /tmp/pip demo-pkg "
            "&& PYTHONPATH=/tmp/pip /usr/bin/python3 -c 'import demo_pkg; print(demo_pkg.answer)'"
        )
        assert (status, said.strip().splitlines()[-1:]) == (0, ["42"]), said
    if await has(site, "git --version"):
        repository(tmp_path)
        for proxy in ("", f"-c http.proxy={PROXY}"):
            status, said = await site.run(
                f"cd /tmp && rm -rf app && git {proxy} clone -q "
                f"https://git.test:{site.secure.port}/app.git && cat app/README"
            )
            assert (status, said) == (0, "hello from git\n"), said
    if await has(site, "npm --version"):
        status, said = await site.run(
            f"mkdir -p /tmp/npm && cd /tmp/npm && npm install --registry {host}/ --no-audit "
            "--no-fund --no-update-notifier --cache /tmp/cache --prefix /tmp/npm demo-pkg "
            "&& node -p 'require(\"demo-pkg\")'"
        )
        assert (status, said.strip().splitlines()[-1:]) == (0, ["42"]), said


async def has(site: Site, program: str) -> bool:
    return (await site.run(program))[0] == 0


WEBSOCKET = """
import base64, os, socket, ssl, sys
port, secure = int(sys.argv[1]), sys.argv[2] == "wss"
made = socket.create_connection(("api.test", port), 10)
if secure:
    made = ssl.create_default_context().wrap_socket(made, server_hostname="api.test")
key = base64.b64encode(os.urandom(16)).decode()
made.sendall(f"GET /chat HTTP/1.1\\r\\nHost: api.test:{port}\\r\\nConnection: Upgrade\\r\\n"
    f"Upgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: {key}\\r\\n"
    f"Authorization: Bearer {os.environ['API_TOKEN']}\\r\\n\\r\\n".encode())
seen = b""
while b"\\r\\n\\r\\n" not in seen: seen += made.recv(4096)
assert seen.startswith(b"HTTP/1.1 101"), seen
said = os.environ["API_TOKEN"].encode()
mask = b"\\0\\0\\0\\0"
made.sendall(bytes([0x81, 0x80 | len(said)]) + mask + said)
back = b""
while len(back) < 6 + len(said): back += made.recv(4096)
print(back[6:].decode())
"""


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_websockets_pass_with_the_secret_in_their_handshake_alone(
    opened: Open, scheme: str
) -> None:
    site = await opened()
    host = site.secure if scheme == "wss" else site.plain
    argv = ["/usr/bin/python3", "-c", WEBSOCKET, str(host.port), scheme]
    done = await site.sandbox.exec(argv, timeout_s=60.0)
    assert done.exit_code == 0, done.stderr.decode()
    # The host heard the placeholder, and said it back: a message is no place for a secret.
    assert done.stdout.decode().startswith("INTRAMUROS_SECRET_")
    assert host.visits[0].header("authorization") == [f"Bearer {VALUE}"]
    ended = await site.ended()
    assert [(r["status"], r["path"]) for r in ended] == [(101, "/chat")]
    assert ended[0]["request_bytes"] > 20


async def test_an_echoed_secret_comes_back_neither_compressed_nor_in_pieces(opened: Open) -> None:
    needs("curl")
    site = await opened()
    for path in ("/packed", "/chunks", "/plain"):
        status, said = await site.run(
            f'curl -sS --compressed -H "X-Key: $API_TOKEN" -u "me:$API_TOKEN" '
            f"https://api.test:{site.secure.port}{path}"
        )
        assert status == 0, said
        assert "INTRAMUROS_SECRET_" in said
        assert VALUE not in said
        assert base64.b64encode(f"me:{VALUE}".encode()).decode() not in said
        assert site.secure.visits[-1].header("x-key") == [VALUE]
    ended = await site.ended(3)
    assert all(r["scrubbed"] > 0 for r in ended)


async def test_a_placeholder_sent_anywhere_else_stays_one(opened: Open) -> None:
    needs("curl")
    site = await opened()
    secure = site.secure
    ask = "curl -sS -o /dev/null"
    await site.run(
        f'{ask} -H "X-Key: $API_TOKEN" https://other.test:{secure.port}/;'
        f"{ask} https://api.test:{secure.port}/$API_TOKEN?k=$API_TOKEN;"
        f'{ask} -H "$API_TOKEN: x" https://api.test:{secure.port}/;'
        f"printf %s $API_TOKEN | gzip | {ask} -H 'content-encoding: gzip' --data-binary @- "
        f"https://api.test:{secure.port}/;"
        f'{ask} -x {PROXY} --proxy-header "X-Key: $API_TOKEN" https://other.test:{secure.port}/'
    )
    assert len(secure.visits) == 5
    for visit in secure.visits:
        assert VALUE.encode() not in visit.head + visit.body


DATAGRAMS = """
import socket, struct
def ask(kind):
    name = b"".join(bytes([len(l)]) + l for l in b"api.test".split(b".")) + b"\\0"
    query = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + name + struct.pack(">2H", kind, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(5)
        made.sendto(query, ("198.18.0.1", 53))
        reply = made.recv(1500)
    return reply[3] & 15, struct.unpack(">H", reply[6:8])[0]
for kind in (1, 28, 65, 64, 16, 15, 257): print(kind, *ask(kind))
address = socket.gethostbyname("api.test")
for port in (443, 80, 3478):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(2)
        made.connect((address, port))
        made.send(b"\\xc0\\0\\0\\0\\1" + b"q" * 1200)
        try: print(port, "heard", made.recv(100))
        except ConnectionRefusedError: print(port, "refused")
        except TimeoutError: print(port, "silence")
"""


async def test_names_lead_to_tcp_and_to_nothing_else(opened: Open) -> None:
    """No IPv6, no HTTPS or SVCB record (and so no hidden ClientHello), no QUIC."""
    site = await opened()
    done = await site.sandbox.exec(["/usr/bin/python3", "-c", DATAGRAMS], timeout_s=60.0)
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "1 0 1", done.stderr.decode()
    assert lines[1:7] == [f"{kind} 0 0" for kind in (28, 65, 64, 16, 15, 257)]
    assert lines[7:] == ["443 refused", "80 refused", "3478 refused"]


async def test_behind_a_companys_proxy_programs_notice_nothing(opened: Open) -> None:
    needs("curl")
    site = await opened(behind_proxy=True)
    status, said = await site.run(
        f'curl -sS -H "X-Key: $API_TOKEN" https://api.test:{site.secure.port}/far'
    )
    assert status == 0, said
    assert "GET /far HTTP/1.1" in said
    assert site.secure.visits[0].header("x-key") == [VALUE]
