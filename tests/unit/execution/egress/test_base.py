import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from intramuros.execution.egress.base import Gate, Names
from intramuros.execution.egress.names import WEB_PORTS

pytestmark = pytest.mark.anyio


class OneName:
    def admits(self, name: str) -> bool:
        return name == "api.test"

    def ports(self) -> frozenset[int]:
        return WEB_PORTS


class Parrot:
    async def serve(self, stream: SocketStream, name: str, port: int) -> None:
        async with stream:
            await stream.send(f"{name}:{port}".encode())


def meet(names: Names, gate: Gate) -> tuple[Names, Gate]:
    """Take both as the capture does: by what they can do."""
    return names, gate


async def test_a_gate_gets_the_connection_and_the_name_it_was_made_to() -> None:
    names, gate = meet(OneName(), Parrot())
    assert names.admits("api.test")
    assert not names.admits("evil.test")
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def handle(stream: SocketStream) -> None:
        await gate.serve(stream, "api.test", 443)

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        port = listener.extra(SocketAttribute.local_port)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            assert await stream.receive() == b"api.test:443"
        group.cancel_scope.cancel()
