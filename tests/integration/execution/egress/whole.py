"""A real sandbox, the capture and the proxy, and a host: what tests of the whole are made with."""

import json
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener

from intramuros.execution.egress.policy import OwnRules, parse_hosts
from intramuros.execution.egress.rules import SessionRules, read_rules
from intramuros.execution.egress.station import Ground, Station
from intramuros.execution.egress.upstream import Dialler, client_context
from intramuros.execution.hands import Hands
from intramuros.execution.record import Record
from intramuros.execution.sandbox.base import Sandbox, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.kernel.timing import SystemClock

# Two runs on one machine have nothing to do with each other.
SESSION = f"sesn_{os.getpid()}"
VALUE = "sk-real-6f1d0c2b9a"
HOSTS = ("api.test", "git.test", "*.wild.test", "inside.test", "pinned.test")


@dataclass
class Origin:
    """An HTTPS host that repeats each request's head and body."""

    port: int
    heads: list[bytes] = field(default_factory=list)

    async def handle(self, stream: Any) -> None:
        async with stream:
            try:
                while True:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += await stream.receive()
                    head, _, body = head.partition(b"\r\n\r\n")
                    self.heads.append(head)
                    lengths = [
                        int(line.split(b":")[1])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length:")
                    ]
                    while lengths and len(body) < lengths[0]:
                        body += await stream.receive()
                    said = head + b"\n" + body + b"\n"
                    told = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said)
                    await stream.send(told + said)
            except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
                return


@asynccontextmanager
async def an_origin(authority: trustme.CA) -> AsyncIterator[Origin]:
    """Run the host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS, "a.wild.test").configure_cert(context)
    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    made = Origin(plain.extra(SocketAttribute.local_port))
    listener = TLSListener(plain, context, standard_compatible=False)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, made.handle)
        yield made
        group.cancel_scope.cancel()


async def resolve(name: str, port: int) -> Sequence[str]:
    """Every name of these tests is this machine, but for some that must not be reached."""
    if name == "rebound.wild.test":
        return ["169.254.169.254"]
    return ["127.0.0.1"]


@dataclass
class Whole:
    """A worker's egress, and the hands that use it."""

    station: Station
    hands: Hands
    origin: Origin
    record: Record
    audit: Path

    async def take(self, rules: SessionRules, session_id: str = SESSION) -> Sandbox:
        self.hands.equip(session_id, (), self.station.passage(session_id, rules))
        return await self.hands.take(session_id)

    async def run(self, sandbox: Sandbox, script: str) -> tuple[int, str]:
        done = await sandbox.exec(["bash", "-c", script], timeout_s=60.0)
        return done.exit_code, (done.stdout + done.stderr).decode()

    def told(self, kind: str) -> list[dict[str, Any]]:
        self.record.settle()
        records = [json.loads(line) for line in self.audit.read_text().splitlines()]
        return [record["fields"] for record in records if record["kind"] == kind]


@asynccontextmanager
async def whole(
    provider: BubblewrapProvider, origin: Origin, authority: trustme.CA, folder: Path
) -> AsyncIterator[Whole]:
    roots = folder / "roots.pem"
    authority.cert_pem.write_to_path(str(roots))
    own = OwnRules(
        allow=parse_hosts(HOSTS),
        deny=parse_hosts(["denied.wild.test"]),
        ports=frozenset({origin.port}),
        internal=parse_hosts(["api.test", "git.test", "a.wild.test", "pinned.test"]),
        pass_through=parse_hosts(["pinned.test"]),
    )
    ground = Ground(folder / "egress", own, Dialler(client_context(roots), resolve), 4)
    clock = SystemClock()
    record = Record(folder / "audit.jsonl", clock)
    try:
        async with Station.opened(ground, record, clock) as station:
            hands = Hands(provider, SandboxSpec(), lambda: 0.0, captures=station.captures)
            yield Whole(station, hands, origin, record, folder / "audit.jsonl")
            await hands.aclose()
    finally:
        record.close()


def rules(**networking: Any) -> SessionRules:
    """Return rules as a control plane says them, with one credential that is for api.test."""
    return read_rules(
        {
            "type": "session_egress",
            "networking": networking or {"type": "unrestricted"},
            "mcp_server_urls": ["https://git.test/mcp"],
            "variables": [
                {
                    "credential_id": "vcrd_1",
                    "name": "API_TOKEN",
                    "value": VALUE,
                    "allowed_hosts": ["api.test"],
                    "header": True,
                    "body": True,
                }
            ],
        }
    )


def limited(*hosts: str, **flags: bool) -> SessionRules:
    return rules(type="limited", allowed_hosts=list(hosts), **flags)


def needs(program: str) -> None:
    if shutil.which(program, path="/usr/bin:/bin") is None:
        pytest.skip(f"this host has no {program} to try it with")
