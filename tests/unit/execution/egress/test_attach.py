import os
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from intramuros.execution.egress import attach as tested
from intramuros.execution.egress.attach import Captures, share
from intramuros.execution.egress.base import Passage
from intramuros.execution.egress.names import WEB_PORTS
from intramuros.execution.egress.netns import Sockets
from intramuros.execution.record import Record
from intramuros.execution.sandbox.base import SandboxError
from intramuros.kernel.timing import SystemClock

pytestmark = pytest.mark.anyio


class Names:
    def admits(self, name: str) -> bool:
        return name == "api.test"

    def ports(self) -> frozenset[int]:
        return WEB_PORTS


class Silent:
    async def serve(self, stream: Any, name: str, port: int) -> None:
        await stream.aclose()


PASSAGE = Passage(Names(), Silent())


class Networked:
    """As much of a sandbox as an attachment needs."""

    def __init__(self, sandbox_id: str) -> None:
        self.sandbox_id = sandbox_id

    def network(self) -> int:
        return os.open("/proc/self/ns/net", os.O_RDONLY)


class FakeJoiner:
    """Opens sockets of this host's loopback network."""

    def __init__(self) -> None:
        self.opened: list[Sockets] = []
        self.closed = False

    async def open(self, network: int, ports: Any) -> Sockets:
        os.fstat(network)
        made = []
        for kind in (
            socket.SOCK_STREAM,
            socket.SOCK_DGRAM,
            socket.SOCK_STREAM,
            socket.SOCK_STREAM,
        ):
            sock = socket.socket(socket.AF_INET, kind)
            sock.bind(("127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                sock.listen()
            sock.setblocking(False)
            made.append(sock)
        self.opened.append(Sockets({443: made[0]}, *made[1:]))
        return self.opened[-1]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
async def captures(tmp_path: Path) -> AsyncIterator[Captures]:
    record = Record(tmp_path / "audit.jsonl", SystemClock())
    made = Captures(record, SystemClock(), 4)
    made._joiner = FakeJoiner()  # type: ignore[assignment]
    yield made
    record.close()


def joiner_of(captures: Captures) -> FakeJoiner:
    return captures._joiner  # type: ignore[return-value]


def sandbox(sandbox_id: str = "sesn_1") -> Any:
    return Networked(sandbox_id)


async def test_a_sandbox_is_attached_until_it_is_detached(captures: Captures) -> None:
    async with captures.opened():
        await captures.attach(sandbox(), PASSAGE)
        assert captures.attached("sesn_1")
        assert not captures.attached("sesn_2")
        await captures.detach("sesn_1")
        await captures.detach("sesn_1")
        assert not captures.attached("sesn_1")
        (sockets,) = joiner_of(captures).opened
        assert sockets.datagrams.fileno() == -1


async def test_attaching_again_renews_the_terms_and_opens_nothing(captures: Captures) -> None:
    async with captures.opened():
        await captures.attach(sandbox(), PASSAGE)
        await captures.attach(sandbox(), Passage(Names(), Silent()))
        assert len(joiner_of(captures).opened) == 1


async def test_the_end_closes_every_capture(captures: Captures) -> None:
    async with captures.opened():
        await captures.attach(sandbox("sesn_1"), PASSAGE)
        await captures.attach(sandbox("sesn_2"), PASSAGE)
    assert joiner_of(captures).closed
    assert all(sockets.names.fileno() == -1 for sockets in joiner_of(captures).opened)
    with pytest.raises(SandboxError, match="nothing catches"):
        await captures.attach(sandbox(), PASSAGE)


async def test_a_capture_that_fails_takes_no_other_along_and_can_be_had_again(
    captures: Captures, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with captures.opened():
        await captures.attach(sandbox("sesn_1"), PASSAGE)
        await captures.attach(sandbox("sesn_2"), PASSAGE)
        broken = joiner_of(captures).opened[0]
        # A descriptor that is closed under it is a defect that nothing else explains.
        anyio.notify_closing(broken.streams[443])
        with anyio.fail_after(60):
            while captures.attached("sesn_1"):  # noqa: ASYNC110 - bounded
                await anyio.sleep(0.005)
        assert broken.datagrams.fileno() == broken.names.fileno() == -1
        assert captures.attached("sesn_2")
        await captures.attach(sandbox("sesn_1"), PASSAGE)
        assert captures.attached("sesn_1")


async def test_sockets_are_closed_when_nobody_is_left_to_hold_them(
    captures: Captures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(tested, "Capture", refuse)
    async with captures.opened():
        with pytest.raises(RuntimeError):
            await captures.attach(sandbox(), PASSAGE)
    (sockets,) = joiner_of(captures).opened
    assert sockets.names.fileno() == -1


async def test_names_that_are_refused_are_recorded(captures: Captures, tmp_path: Path) -> None:
    captures._note("sesn_1", "evil.test")
    await captures._record.flush()
    written = (tmp_path / "audit.jsonl").read_text()
    assert '"kind":"egress.lookup"' in written
    assert '"name":"evil.test"' in written
    assert '"allowed":false' in written


def test_descriptors_are_shared_out_evenly() -> None:
    assert share(65_536, 4) == 128
    assert share(1024, 4) == 64
    assert share(1024, 16) == 16
    assert share(256, 4) == 8
    assert share(1024, 0) == 128


def test_the_soft_limit_goes_as_far_as_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: raised.append(pair))
    assert tested._raise_files() == 4096
    assert raised == [(4096, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4096, 4096))
    assert tested._raise_files() == 4096
    assert len(raised) == 1
