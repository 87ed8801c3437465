import socket

import pytest

from intramuros.execution.egress.base import Gate, Names
from intramuros.execution.egress.leg import Leg
from intramuros.execution.egress.names import WEB_PORTS

pytestmark = pytest.mark.anyio


class OneName:
    def admits(self, name: str) -> bool:
        return name == "api.test"

    def ports(self) -> frozenset[int]:
        return WEB_PORTS


class Parrot:
    async def serve(self, client: Leg, name: str, port: int) -> None:
        async with client:
            await client.send(f"{name}:{port}".encode())


def meet(names: Names, gate: Gate) -> tuple[Names, Gate]:
    """Take both as the capture does: by what they can do."""
    return names, gate


async def test_a_gate_gets_the_connection_and_the_name_it_was_made_to() -> None:
    names, gate = meet(OneName(), Parrot())
    assert names.admits("api.test")
    assert not names.admits("evil.test")
    mine, theirs = socket.socketpair()
    await gate.serve(await Leg.over(mine), "api.test", 443)
    with theirs:
        assert theirs.recv(100) == b"api.test:443"
