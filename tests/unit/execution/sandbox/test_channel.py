import socket
from collections.abc import AsyncIterator

import anyio
import pytest

from intramuros.execution.sandbox import channel as module
from intramuros.execution.sandbox.base import SandboxGone
from intramuros.execution.sandbox.channel import Channel
from intramuros.execution.sandbox.inside.frames import MAX_FRAME, Reader, encode
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Inside:
    """The other end, played by the test."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock, self.reader = sock, Reader()
        self.calls: list[dict[str, bytes]] = []

    async def next(self) -> dict[str, bytes]:
        while not self.calls:
            await anyio.wait_readable(self.sock)
            self.calls += self.reader.feed(self.sock.recv(1 << 16))
        return self.calls.pop(0)

    def answer(self, number: bytes, **fields: bytes) -> None:
        self.sock.sendall(encode({"id": number, **fields}))


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Channel, Inside]]:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    yield channel, Inside(theirs)
    channel.close()
    theirs.close()


async def test_answers_find_their_callers_in_any_order(pair: tuple[Channel, Inside]) -> None:
    channel, inside = pair
    got: dict[str, bytes] = {}

    async def call(name: str) -> None:
        got[name] = (await channel.request("tool", {"name": name.encode()}))["echo"]

    async with anyio.create_task_group() as tasks:
        for name in ("a", "b", "c"):
            tasks.start_soon(call, name)
        calls = [await inside.next() for _ in range(3)]
        for sent in reversed(calls):
            inside.answer(sent["id"], echo=sent["name"])
    assert got == {"a": b"a", "b": b"b", "c": b"c"}


async def test_an_answer_waits_for_no_other(pair: tuple[Channel, Inside]) -> None:
    channel, inside = pair
    got: list[bytes] = []

    async def call(name: bytes) -> None:
        await channel.request("tool", {"name": name})
        got.append(name)

    async with anyio.create_task_group() as tasks:
        sent = {}
        for name in (b"slow", b"slower", b"quick", b"last"):
            tasks.start_soon(call, name)
            sent[name] = (await inside.next())["id"]
        for name in (b"last", b"quick", b"slower", b"slow"):
            inside.answer(sent[name])
            await until(lambda name=name: got[-1:] == [name])


async def test_an_answer_that_comes_before_it_is_waited_for_is_not_missed(
    pair: tuple[Channel, Inside], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, inside = pair
    done = anyio.Event()
    send = channel._send

    async def slow_send(data: bytes) -> None:
        await send(data)
        if b"quick" in data:
            inside.answer((await inside.next())["id"])
            await until(lambda: b"2" in channel._answers and channel._answers[b"2"] is not None)

    monkeypatch.setattr(channel, "_send", slow_send)
    async with anyio.create_task_group() as tasks:

        async def slow() -> None:
            await channel.request("bash", {"name": b"slow"})
            done.set()

        tasks.start_soon(slow)
        first = await inside.next()
        with anyio.fail_after(60):
            await channel.request("tool", {"name": b"quick"})
        assert not done.is_set()
        inside.answer(first["id"])


async def test_the_reader_being_cancelled_does_not_strand_the_others(
    pair: tuple[Channel, Inside],
) -> None:
    channel, inside = pair
    got = []

    async def patient() -> None:
        got.append(await channel.request("tool", {}))

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(patient)

            async def stop() -> None:
                first, second = await inside.next(), await inside.next()
                scope.cancel()
                cancelled = await inside.next()
                assert cancelled["op"] == b"cancel"
                kept = first if cancelled["target"] == second["id"] else second
                # The answer of the cancelled call is late, and nobody's.
                inside.answer(cancelled["target"], text=b"late")
                inside.answer(kept["id"], text=b"mine")

            tasks.start_soon(stop)
            await channel.request("bash", {})
    assert got[0]["text"] == b"mine"


async def test_a_peer_that_goes_away_fails_every_caller(pair: tuple[Channel, Inside]) -> None:
    channel, inside = pair
    failed = []

    async def call() -> None:
        try:
            await channel.request("tool", {})
        except SandboxGone:
            failed.append(1)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(call)
        await inside.next()
        inside.sock.close()
    assert failed == [1, 1, 1]
    assert channel.closed
    with pytest.raises(SandboxGone):
        await channel.request("tool", {})


async def test_closing_wakes_who_waits(pair: tuple[Channel, Inside]) -> None:
    channel, inside = pair

    async def close() -> None:
        await inside.next()
        channel.close()
        channel.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)
        with pytest.raises(SandboxGone):
            await channel.request("tool", {})


@pytest.mark.parametrize("junk", [b"\xff" * 8, (MAX_FRAME + 1).to_bytes(4, "big"), b"\0\0\0\1\5"])
async def test_a_peer_that_breaks_the_format_is_cut_off(
    pair: tuple[Channel, Inside], junk: bytes
) -> None:
    channel, inside = pair

    async def talk() -> None:
        await inside.next()
        inside.sock.sendall(junk)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(talk)
        with pytest.raises(SandboxGone, match="broke its channel"):
            await channel.request("tool", {})
    assert channel.closed


async def test_a_peer_that_does_not_read_is_cut_off(
    pair: tuple[Channel, Inside], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, _ = pair
    monkeypatch.setattr(module, "_SEND_S", 0.1)
    with pytest.raises(SandboxGone, match="does not read"):
        await channel.request("tool", {"content": bytes(8 << 20)})


async def test_answers_nobody_asked_for_are_dropped(pair: tuple[Channel, Inside]) -> None:
    channel, inside = pair

    async def talk() -> None:
        call = await inside.next()
        inside.answer(b"999", text=b"?")
        inside.sock.sendall(encode({"text": b"no id"}))
        inside.answer(call["id"], text=b"yes")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(talk)
        assert (await channel.request("tool", {}))["text"] == b"yes"
    assert channel._answers == {}
