"""A gate between a client and real hosts on loopback, with nothing else around it."""

import json
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import h11
import trustme
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from intramuros.execution.egress.ca import Authority, open_authority
from intramuros.execution.egress.leg import Leg
from intramuros.execution.egress.limits import EgressLimits
from intramuros.execution.egress.policy import (
    ANY,
    Networking,
    OwnRules,
    Policy,
    parse_hosts,
    read_networking,
)
from intramuros.execution.egress.proxy import Proxy, SandboxGate
from intramuros.execution.egress.secrets import Secret, Secrets, placeholder
from intramuros.execution.egress.upstream import Dialler, client_context
from intramuros.execution.record import Record
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.timing import SystemClock
from tests.fakes.origin import ADDRESS, Origin, origin

NAME = "api.test"
VALUE = "sk-real-777-888"
KEY = b"k" * 32
MARK = placeholder(KEY, "sesn_1", "vcrd_TOKEN").encode()


def secret(**more: Any) -> Secret:
    settings = {"hosts": parse_hosts([NAME]), "header": True, "body": True, **more}
    return Secret("TOKEN", settings.pop("value", VALUE), MARK.decode(), **settings)


def own(port: int, **more: Any) -> OwnRules:
    settings = {"allow": ANY, "ports": frozenset({port}), "internal": ANY, **more}
    return OwnRules(**settings)


@dataclass
class Names:
    """A name service that says what a test wants."""

    addresses: list[Sequence[str]] = field(default_factory=lambda: [[ADDRESS]])
    asked: list[str] = field(default_factory=list)

    async def __call__(self, name: str, port: int) -> Sequence[str]:
        self.asked.append(name)
        found = self.addresses[min(len(self.asked) - 1, len(self.addresses) - 1)]
        if not found:
            raise OSError("no such name")
        return found


@dataclass
class Rig:
    origin: Origin
    proxy: Proxy
    authority: Authority
    names: Names
    audit: Path
    gate: SandboxGate

    gates: list[SandboxGate] = field(default_factory=list)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "gates":
            value.append(self.gate)
        elif name == "gate" and hasattr(self, "gates"):
            self.gates.append(value)

    @property
    def port(self) -> int:
        return self.origin.port

    def set(self, *secrets: Secret, policy: Policy | None = None, scrub: bool = True) -> None:
        rules = policy or Policy(own(self.port), Networking())
        self.gate.renew(rules, Secrets(secrets, scrub=scrub))

    def limit(self, **limits: Any) -> None:
        proxy = replace(self.proxy, limits=replace(EgressLimits(), **limits))
        self.gate = proxy.gate("sesn_1", Policy(own(self.port), Networking()), Secrets())

    def records(self, kind: str = "") -> list[dict[str, Any]]:
        self.proxy.record.settle()
        found = [json.loads(line) for line in read_lines(self.audit)]
        return [r["fields"] | {"kind": r["kind"]} for r in found if r["kind"].startswith(kind)]

    def verdicts(self) -> list[tuple[str, str]]:
        return [(r["verdict"], r["rule"]) for r in self.records("egress.request")]

    @asynccontextmanager
    async def connect(
        self, name: str | None = NAME, port: int | None = None
    ) -> AsyncIterator[ByteStream]:
        """Return a connection as a program inside has it: to a name, or with None to the proxy."""
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        there = listener.getsockname()[1]
        over = anyio.Event()
        failure: Exception | None = None

        async def serve() -> None:
            await anyio.wait_readable(listener)
            made, _ = listener.accept()
            leg = await Leg.over(made)
            if name is None:
                await self.gate.serve_proxied(leg)
            else:
                await self.gate.serve(leg, name, port or self.port)
            over.set()

        with listener:
            async with anyio.create_task_group() as group:
                group.start_soon(serve)
                async with await anyio.connect_tcp("127.0.0.1", there) as stream:
                    try:
                        yield stream
                    except Exception as error:  # noqa: BLE001  raised again outside of the group
                        failure = error
                with anyio.move_on_after(60):
                    await over.wait()
                group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        assert over.is_set(), "the gate goes on after the sandbox hung up"

    @asynccontextmanager
    async def secure(
        self, name: str = NAME, sni: str | None = None, port: int | None = None
    ) -> AsyncIterator[ByteStream]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.authority.pem.decode())
        context.set_alpn_protocols(["h2", "http/1.1"])
        async with self.connect(name, port) as stream:
            yield await TLSStream.wrap(
                stream, hostname=sni or name, ssl_context=context, standard_compatible=False
            )

    async def ask(self, stream: ByteStream, raw: bytes) -> "Got":
        await stream.send(raw)
        return await got(stream, raw.split(b" ", 1)[0])

    async def once(self, raw: bytes, name: str = NAME) -> "Got":
        async with self.connect(name) as stream:
            return await self.ask(stream, raw)


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def rule(self) -> str | None:
        return self.headers.get("x-intramuros-egress")


async def got(stream: ByteStream, method: bytes = b"GET") -> Got:
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    http.send(h11.EndOfMessage())
    status, headers, body = 0, {}, b""
    with anyio.fail_after(60):
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                try:
                    data = await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    data = b""
                http.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                continue
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {n.decode(): v.decode("latin-1") for n, v in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                return Got(status, headers, body)


def get(
    path: str = "/", *lines: str, method: str = "GET", host: str | None = None, body: bytes = b""
) -> bytes:
    head = [f"{method} {path} HTTP/1.1", f"Host: {host or NAME}", *lines]
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


@asynccontextmanager
async def rig(tmp_path: Path, *, tls: bool = False, **rules: Any) -> AsyncIterator[Rig]:
    ca = trustme.CA()
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(NAME).configure_cert(context)
    trusted = tmp_path / "upstream.pem"
    ca.cert_pem.write_to_path(str(trusted))
    clock = SystemClock()
    record = Record(tmp_path / "audit.jsonl", clock)
    names = Names()
    authority = open_authority(tmp_path / "egress", ANY, clock)
    proxy = Proxy(authority, Dialler(client_context(trusted), names, 2.0), record, clock)
    async with origin(context) as host:
        policy = Policy(own(host.port, **rules), read_networking({"type": "unrestricted"}))
        gate = proxy.gate("sesn_1", policy, Secrets())
        made = Rig(host, proxy, authority, names, tmp_path / "audit.jsonl", gate)
        try:
            yield made
        finally:
            for one in made.gates:
                one.close()
            await anyio.sleep(0.001)
    record.close()
