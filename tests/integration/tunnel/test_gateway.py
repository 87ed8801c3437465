import json
import ssl
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from structlog.testing import capture_logs

from intramuros.kernel.wire import Wire, serve_tls
from intramuros.protocol.dial import LINK_ALPN, Refusal, encode_reply, parse_link_hello
from intramuros.protocol.mux import Mux, Ready, Side
from intramuros.protocol.mux_frames import Code, FrameType, Open, encode_open, frame
from tests.integration.tunnel.rig import DOMAIN, Rig, eventually, running_gateway

pytestmark = pytest.mark.anyio


class FakeEdge:
    """An edge under the test's control; it counts dials."""

    def __init__(self, rig: Rig, reply: Refusal | None = None) -> None:
        self.rig = rig
        self.reply = reply
        self.dials: list[float] = []
        self.tokens: list[str] = []
        self.said: bytes = b""
        self.to_say: list[bytes] = []

    async def handle(self, wire: Wire) -> None:
        self.dials.append(anyio.current_time())
        self.tokens.append(parse_link_hello(await wire.read_line(4096)).token)
        await wire.send(encode_reply(self.reply))
        try:
            for data in self.to_say:
                await wire.send(data)
            while True:
                self.said += await wire.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return

    async def serve(self, *, task_status: anyio.abc.TaskStatus[int]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([LINK_ALPN])
        context.load_cert_chain(self.rig.home / "edge.crt", self.rig.home / "edge.key")
        await serve_tls(
            self.handle, host="127.0.0.1", port=0, context=context, task_status=task_status
        )


Logs = Sequence[MutableMapping[str, Any]]


async def run_against(edge: FakeEdge, until: Callable[[Logs], bool]) -> list[dict[str, object]]:
    """Run a gateway against the edge until its log or the edge say enough; return the log."""
    with capture_logs() as logs:

        async def enough() -> bool:
            return until(logs)

        async with anyio.create_task_group() as group:
            port = await group.start(edge.serve)
            async with running_gateway(edge.rig.config([port], 1), links=0):
                await eventually(enough, 30)
            group.cancel_scope.cancel()
    return [dict(entry) for entry in logs]


def tells(event: str, logs: Logs) -> bool:
    return any(entry["event"] == event for entry in logs)


async def said(logs: Logs, event: str) -> bool:
    return tells(event, logs)


async def test_t02_an_edge_that_hangs_up_is_not_dialled_in_a_hot_loop(tmp_path: Path) -> None:
    edge = FakeEdge(Rig(tmp_path))
    edge.to_say = [b"\0" * 9]
    await run_against(edge, lambda _: len(edge.dials) >= 5)
    assert min(b - a for a, b in zip(edge.dials, edge.dials[1:], strict=False)) >= 0.2


async def test_a_refused_token_is_said_once_and_read_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    edge = FakeEdge(rig, Refusal("stale_token", "token version 1 is below 2"))

    async def tried(times: int) -> bool:
        return len(edge.tokens) >= times

    with capture_logs() as logs:
        async with anyio.create_task_group() as group:
            port = await group.start(edge.serve)
            async with running_gateway(rig.config([port], 1), links=0):
                await eventually(partial(tried, 1), 30)
                await anyio.sleep(1.5)
                assert len(edge.dials) == 1
                rig.use_token(2)
                await eventually(partial(tried, 2), 30)
            group.cancel_scope.cancel()
    assert edge.tokens[0] != edge.tokens[1]
    failures = [entry for entry in logs if entry["event"] == "link_failed"]
    assert [entry["code"] for entry in failures] == ["stale_token"]
    assert not any(token in json.dumps(logs, default=str) for token in edge.tokens)


async def test_a_missing_edge_is_said_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    with capture_logs() as logs:
        async with running_gateway(rig.config([1], 1), links=0):
            await eventually(partial(said, logs, "link_failed"), 30)
            await anyio.sleep(1.2)
    failures = [entry for entry in logs if entry["event"] == "link_failed"]
    assert [entry["code"] for entry in failures] == ["edge_refused"]


async def test_an_edge_that_is_someone_else_is_not_shown_the_token(tmp_path: Path) -> None:
    rig, other = Rig(tmp_path), Rig(tmp_path / "other")
    edge = FakeEdge(other)
    with capture_logs() as logs:
        async with anyio.create_task_group() as group:
            port = await group.start(edge.serve)
            async with running_gateway(rig.config([port], 1), links=0):
                await eventually(partial(said, logs, "link_failed"), 30)
            group.cancel_scope.cancel()
    assert edge.tokens == []
    assert any(entry.get("code") == "edge_certificate" for entry in logs)


@pytest.mark.parametrize(
    "data",
    [
        frame(FrameType.DATA, 1, b"x"),
        b"\x02\0\0\0\x01\xff\xff\xff\xff",
        encode_open(1, Open(f"docs.{DOMAIN}", 1)) * 2,
        frame(FrameType.OPEN, 1, b"\0\0\0\1\x0810.0.0.1\0\0"),
        b"\x63" * 9,
    ],
    ids=["data without open", "4 GB", "id used again", "an address", "unknown type"],
)
async def test_an_edge_that_breaks_the_rules_is_left(tmp_path: Path, data: bytes) -> None:
    edge = FakeEdge(Rig(tmp_path))
    hello = b"".join(Mux(Side.EDGE).data_to_send())
    edge.to_say = [hello + data]
    logs = await run_against(edge, partial(tells, "link_lost"))
    lost = [entry for entry in logs if entry["event"] == "link_lost"]
    assert "protocol violation" in str(lost[0]["reason"])
    events = Mux(Side.EDGE).receive(edge.said[: edge.said.index(b"IMUX") + 18])
    assert isinstance(events[0], Ready)


async def test_foreign_hosts_are_reset_without_a_handshake(tmp_path: Path) -> None:
    edge = FakeEdge(Rig(tmp_path))
    mux = Mux(Side.EDGE)
    edge.to_say = [
        b"".join(mux.data_to_send()),
        encode_open(1, Open("docs.other.tunnel.example", 1000)),
    ]
    reset = frame(FrameType.RST, 1, int(Code.NO_ROUTE).to_bytes(4, "big"))
    await run_against(edge, lambda logs: reset in edge.said and tells("foreign_host", logs))
