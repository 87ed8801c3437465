from pathlib import Path

import anyio
import pytest

from intramuros.tunnel import splice as splice_module
from intramuros.tunnel.link import StreamReset
from intramuros.tunnel.recorder import Recorder
from intramuros.tunnel.splice import Tally, splice
from tests.unit.tunnel.streams import MemoryBytes, connection

pytestmark = pytest.mark.anyio


class ResetStream(MemoryBytes):
    """A stream that the gateway drops."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        raise StreamReset(7)


async def test_bytes_are_copied_counted_and_recorded(tmp_path: Path) -> None:
    caller, dial = connection()
    stream, gateway = connection()
    recording = Recorder(tmp_path).start("tnl_1")
    await caller.send(b" world")
    await gateway.send(b"answer")
    tally = Tally()
    async with anyio.create_task_group() as group:

        async def run() -> None:
            nonlocal tally
            tally = await splice(dial, stream, b"hello", recording)

        group.start_soon(run)
        assert await caller.receive() == b"answer"
        held = b""
        while len(held) < 11:
            held += await gateway.receive()
        assert held == b"hello world"
        await gateway.send_eof()
    recording.close()
    assert (tally.up_bytes, tally.down_bytes, tally.ended) == (11, 6, "finished")
    assert (tmp_path / "000001-tnl_1.up").read_bytes() == b"hello world"
    assert (tmp_path / "000001-tnl_1.down").read_bytes() == b"answer"


async def test_a_caller_that_hangs_up_finishes_its_direction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(splice_module, "LINGER_S", 0.05)
    caller, dial = connection()
    stream, gateway = connection()
    await caller.send_eof()
    tally = await splice(dial, stream, b"x", None)
    assert tally.ended == "caller_closed"
    assert await gateway.receive() == b"x"
    with pytest.raises(anyio.EndOfStream):
        await gateway.receive()


async def test_a_reset_ends_both_directions() -> None:
    _, dial = connection()
    tally = await splice(dial, ResetStream(), b"x", None)
    assert tally.ended == "gateway: stream reset (no_route)"
