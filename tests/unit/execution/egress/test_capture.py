"""The capture, over addresses of this host's own loopback network instead of a sandbox's."""

import errno
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import dns.message
import dns.rcode
import pytest
from anyio.abc import SocketStream

from intramuros.execution.egress import capture as tested
from intramuros.execution.egress.addresses import Addresses
from intramuros.execution.egress.base import Passage
from intramuros.execution.egress.capture import MAX_REFUSED, Capture, Means
from intramuros.execution.egress.leg import Leg
from intramuros.execution.egress.names import WEB_PORTS
from intramuros.execution.egress.netns import Sockets
from intramuros.kernel.timing import SystemClock

pytestmark = pytest.mark.anyio

LOOPBACK = ipaddress.IPv4Network("127.64.0.0/16")


@dataclass
class Names:
    admitted: set[str] = field(default_factory=lambda: {"api.test", "other.test"})

    def admits(self, name: str) -> bool:
        return name in self.admitted

    def ports(self) -> frozenset[int]:
        return WEB_PORTS


class Echo:
    """Says whom it was reached as, then repeats what it hears."""

    def __init__(self) -> None:
        self.served: list[tuple[str, int]] = []
        self.open = 0

    async def serve(self, client: Leg, name: str, port: int) -> None:
        self.served.append((name, port))
        self.open += 1
        try:
            await client.send(f"{name}:{port}\n".encode())
            async for data in client:
                await client.send(data)
        finally:
            self.open -= 1


class Broken:
    async def serve(self, client: Leg, name: str, port: int) -> None:
        raise RuntimeError("a defect")


def bound(kind: socket.SocketKind, host: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.bind((host, 0))
    if kind == socket.SOCK_STREAM:
        made.listen(16)
    made.setblocking(False)
    return made


@dataclass
class Rig:
    sockets: Sockets
    addresses: Addresses
    names: Names
    refused: list[str]
    capture: Capture
    scope: anyio.CancelScope
    done: anyio.Event

    @property
    def port(self) -> int:
        number: int = self.sockets.streams[443].getsockname()[1]
        return number

    async def connect(self, name: str) -> SocketStream:
        return await anyio.connect_tcp(self.addresses.of(name), self.port)

    async def resolve(self, name: str, kind: str = "A") -> dns.message.Message:
        host, port = self.sockets.datagrams.getsockname()
        query = dns.message.make_query(name, kind)
        async with await anyio.create_connected_udp_socket(host, port) as asker:
            await asker.send(query.to_wire())
            return dns.message.from_wire(await asker.receive())


@asynccontextmanager
async def running(gate: Any, *, max_connections: int = 8) -> AsyncIterator[Rig]:
    sockets = Sockets(
        {443: bound(socket.SOCK_STREAM, "0.0.0.0")},
        bound(socket.SOCK_DGRAM, "127.64.0.1"),
        bound(socket.SOCK_STREAM, "127.64.0.1"),
        bound(socket.SOCK_STREAM, "127.64.0.1"),
    )
    addresses, names, refused = Addresses(network=LOOPBACK), Names(), list[str]()

    means = Means(SystemClock(), refused.append, max_connections)
    capture = Capture("sesn_1", sockets, Passage(names, gate), means, addresses)
    rig = Rig(sockets, addresses, names, refused, capture, anyio.CancelScope(), anyio.Event())

    async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        try:
            with rig.scope:
                await capture.run(task_status=task_status)
        finally:
            rig.done.set()

    async with anyio.create_task_group() as group:
        await group.start(run)
        try:
            with anyio.fail_after(60):
                yield rig
        finally:
            rig.scope.cancel()


async def eventually(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - bounded
            await anyio.sleep(0.005)


async def line(stream: SocketStream) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        data += await stream.receive()
    return data


async def assert_reset(stream: SocketStream) -> None:
    with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)) as met:
        await stream.receive()
    cause = met.value.__cause__
    assert isinstance(cause, ConnectionResetError), met.value


async def test_a_connection_reaches_the_gate_under_the_name_it_was_made_to() -> None:
    gate = Echo()
    async with running(gate) as rig:
        async with await rig.connect("api.test") as one, await rig.connect("other.test") as other:
            assert await line(one) == b"api.test:443\n"
            assert await line(other) == b"other.test:443\n"
            await one.send(b"ping\n")
            assert await line(one) == b"ping\n"
        await eventually(lambda: gate.open == 0)
        assert sorted(gate.served) == [("api.test", 443), ("other.test", 443)]


async def test_an_address_that_stands_for_nothing_is_reset() -> None:
    gate = Echo()
    async with running(gate) as rig:
        for address in ("127.64.9.9", "127.0.0.1", "127.64.0.1"):
            async with await anyio.connect_tcp(address, rig.port) as stream:
                await assert_reset(stream)
        assert gate.served == []


async def test_a_name_that_is_no_longer_admitted_is_reset() -> None:
    gate = Echo()
    async with running(gate) as rig:
        address = rig.addresses.of("api.test")
        rig.names.admitted.discard("api.test")
        async with await anyio.connect_tcp(address, rig.port) as stream:
            await assert_reset(stream)
        assert gate.served == []


async def test_new_terms_hold_for_the_next_connection_and_lookup() -> None:
    async with running(Echo()) as rig:
        async with await rig.connect("api.test") as stream:
            await line(stream)
            rig.capture.renew(Passage(Names({"new.test"}), Echo()))
            await stream.send(b"still\n")
            assert await line(stream) == b"still\n"
        async with await rig.connect("api.test") as stream:
            await assert_reset(stream)
        assert (await rig.resolve("api.test")).rcode() == dns.rcode.NXDOMAIN
        assert (await rig.resolve("new.test")).rcode() == dns.rcode.NOERROR


async def test_one_connections_defect_is_its_own() -> None:
    async with running(Broken()) as rig:
        for _ in range(3):
            async with await rig.connect("api.test") as stream:
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
        assert not rig.done.is_set()


async def test_connections_past_the_limit_wait_their_turn() -> None:
    gate = Echo()
    async with running(gate, max_connections=2) as rig:
        streams = [await rig.connect("api.test") for _ in range(4)]
        await eventually(lambda: gate.open == 2)
        assert len(gate.served) == 2
        for stream in streams[:2]:
            await stream.aclose()
        for stream in streams[2:]:
            assert await line(stream) == b"api.test:443\n"
            await stream.aclose()


async def test_the_end_of_a_capture_ends_connections_and_listeners() -> None:
    gate = Echo()
    async with running(gate) as rig:
        port, resolver = rig.port, rig.sockets.datagrams.getsockname()
        async with await rig.connect("api.test") as stream:
            await line(stream)
            rig.scope.cancel()
            await rig.done.wait()
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        assert gate.open == 0
        with pytest.raises(OSError):
            await anyio.connect_tcp("127.64.1.0", port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.connect(resolver)
            asker.send(b"x")
            asker.settimeout(5)
            with pytest.raises(ConnectionRefusedError):
                asker.recv(1)


async def test_names_are_answered_in_datagrams() -> None:
    async with running(Echo()) as rig:
        (found,) = (await rig.resolve("api.test")).answer
        assert found[0].address == rig.addresses.of("api.test")
        assert (await rig.resolve("api.test", "AAAA")).answer == []
        assert (await rig.resolve("evil.test")).rcode() == dns.rcode.NXDOMAIN
        assert rig.refused == ["evil.test"]


async def test_names_are_answered_in_streams_one_after_another() -> None:
    async with running(Echo()) as rig:
        host, port = rig.sockets.names.getsockname()
        async with await anyio.connect_tcp(host, port) as stream:
            for name, code in (("api.test", dns.rcode.NOERROR), ("no.test", dns.rcode.NXDOMAIN)):
                query = dns.message.make_query(name, "A").to_wire()
                for piece in (len(query).to_bytes(2), query[:5], query[5:]):
                    await stream.send(piece)
                size = int.from_bytes(await stream.receive(2))
                answer = dns.message.from_wire(await stream.receive(size))
                assert answer.rcode() == code


@pytest.mark.parametrize("sent", [b"\xff\xff" + b"x" * 100, b"\x00\x00", b"\x00\x05hello"])
async def test_noise_in_a_stream_ends_it(sent: bytes) -> None:
    async with running(Echo()) as rig:
        host, port = rig.sockets.names.getsockname()
        async with await anyio.connect_tcp(host, port) as stream:
            await stream.send(sent)
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        assert (await rig.resolve("api.test")).answer


async def test_a_stream_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "_NAME_STREAM_S", 0.05)
    async with running(Echo()) as rig:
        host, port = rig.sockets.names.getsockname()
        async with await anyio.connect_tcp(host, port) as stream:
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()


async def test_noise_in_datagrams_is_survived() -> None:
    async with running(Echo()) as rig:
        host, port = rig.sockets.datagrams.getsockname()
        async with await anyio.create_connected_udp_socket(host, port) as asker:
            for noise in (b"", b"x", b"\0" * 12, b"\xff" * 2000):
                await asker.send(noise)
        assert (await rig.resolve("api.test")).answer


async def test_refused_names_are_told_once_and_not_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tested, "_QUERY_BURST", 10_000)
    async with running(Echo()) as rig:
        for number in (*range(3), *range(MAX_REFUSED + 5)):
            await rig.resolve(f"n{number}.evil.test")
        assert rig.refused == [f"n{number}.evil.test" for number in range(MAX_REFUSED)]


async def test_lookups_are_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "_QUERY_BURST", 1)
    monkeypatch.setattr(tested, "_QUERIES_PER_S", 20.0)
    async with running(Echo()) as rig:
        began = anyio.current_time()
        for _ in range(4):
            await rig.resolve("api.test")
        assert anyio.current_time() - began > 0.09


async def test_connections_are_paced_whatever_they_are_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tested, "_CONNECTION_BURST", 1)
    monkeypatch.setattr(tested, "_CONNECTIONS_PER_S", 20.0)
    async with running(Echo()) as rig:
        began = anyio.current_time()
        for _ in range(3):
            async with await anyio.connect_tcp(*rig.sockets.names.getsockname()) as stream:
                await stream.send(b"\xff\xff")
        async with await rig.connect("api.test") as stream:
            assert await line(stream) == b"api.test:443\n"
        for _ in range(3):
            async with await anyio.connect_tcp("127.64.9.9", rig.port) as stream:
                await assert_reset(stream)
        async with await rig.connect("api.test") as stream:
            assert await line(stream) == b"api.test:443\n"
        assert anyio.current_time() - began > 0.15


async def test_a_shortage_of_descriptors_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "_FULL_S", 0.01)
    gate = Echo()
    async with running(gate) as rig:
        real, failures = socket.socket.accept, [errno.EMFILE, errno.ECONNABORTED]

        def accept(self: socket.socket) -> Any:
            if failures:
                raise OSError(failures.pop(0), "short")
            return real(self)

        monkeypatch.setattr(socket.socket, "accept", accept)
        async with await rig.connect("api.test") as stream:
            assert await line(stream) == b"api.test:443\n"
        assert failures == []
