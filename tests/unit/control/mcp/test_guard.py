import ipaddress
from collections.abc import Sequence

import httpcore2
import pytest

from intramuros.control.mcp.guard import GuardedBackend

pytestmark = pytest.mark.anyio


class Answers:
    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0)


async def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    backend = GuardedBackend(resolver=Answers(["93.184.215.14", "127.0.0.1"]))
    with pytest.raises(httpcore2.ConnectError, match="public addresses only"):
        await backend.connect_tcp("rebind.test", 443)


async def test_a_name_without_addresses_is_refused() -> None:
    with pytest.raises(httpcore2.ConnectError):
        await GuardedBackend(resolver=Answers([])).connect_tcp("empty.test", 443)


async def test_a_name_that_cannot_be_resolved_is_a_connect_error() -> None:
    async def fails(host: str, port: int) -> Sequence[str]:
        raise OSError("no such host")

    with pytest.raises(httpcore2.ConnectError, match="cannot be resolved"):
        await GuardedBackend(resolver=fails).connect_tcp("nowhere.test", 443)


async def test_the_connection_goes_to_the_checked_address_and_asks_once() -> None:
    answers = Answers(["127.0.0.1"], ["10.0.0.1"])
    backend = GuardedBackend([ipaddress.ip_network("127.0.0.0/8")], answers)
    with pytest.raises(httpcore2.ConnectError):
        await backend.connect_tcp("local.test", 1, timeout=2)
    assert answers.asked == 1
