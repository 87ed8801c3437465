from typing import TYPE_CHECKING, cast

import httpcore2
import httpx2
import pytest

from intramuros.control.mcp.transport import (
    MAX_HELD_BYTES,
    TunnelNetworkBackend,
    TunnelNetworkStream,
    TunnelTransport,
)
from intramuros.kernel.errors import Unavailable
from tests.unit.control.mcp.test_dial import CA, HOST, dialer
from tests.unit.tunnel.streams import MemoryBytes, connection

if TYPE_CHECKING:
    from intramuros.kernel.wire import Wire

pytestmark = pytest.mark.anyio


class CountingStream(MemoryBytes):
    """Remembers what it was asked to send."""

    def __init__(self) -> None:
        super().__init__()
        self.sends: list[bytes] = []

    async def send(self, item: bytes) -> None:
        self.sends.append(item)


async def test_a_head_waits_for_its_body_and_is_never_lost() -> None:
    stream = CountingStream()
    network = TunnelNetworkStream(HOST, cast("Wire", None), stream)
    head = b"POST / HTTP/1.1\r\nhost: a\r\n\r\n"
    await network.write(head)
    assert stream.sends == []
    await network.write(b"body")
    assert stream.sends == [head + b"body"]
    await network.write(head)
    await network.write(b"")
    stream._held = b"answer"
    assert await network.read(100) == b"answer"
    assert stream.sends[1:] == [head]
    large = b"x" * MAX_HELD_BYTES + b"\r\n\r\n"
    await network.write(large)
    assert stream.sends[2:] == [large]


async def test_failures_keep_httpcores_names() -> None:
    backend = TunnelNetworkBackend(dialer(CA.cert_pem))
    with pytest.raises(httpcore2.ConnectError, match="no edge"):
        await backend.connect_tcp(HOST, 443)
    near, far = connection()
    network = TunnelNetworkStream(HOST, cast("Wire", None), near)
    with pytest.raises(httpcore2.ReadTimeout):
        await network.read(1, timeout=0.01)
    await far.send_eof()
    assert await network.read(1) == b""
    async with httpx2.AsyncClient(transport=TunnelTransport(dialer(CA.cert_pem))) as client:
        with pytest.raises(httpx2.ConnectError) as caught:
            await client.get(f"https://{HOST}/")
    assert isinstance(caught.value.__cause__, Unavailable)
    assert caught.value.request.url.host == HOST
