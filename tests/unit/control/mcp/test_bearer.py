from collections.abc import Callable

import httpx2
import pytest

from intramuros.control.mcp.bearer import Bearer, BearerTransport, CredentialRefused

pytestmark = pytest.mark.anyio

URL = "https://m.example/mcp"


class Server:
    """Takes one token and remembers what it was sent."""

    def __init__(self, takes: str = "good") -> None:
        self.takes = takes
        self.seen: list[str | None] = []
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(request.headers.get("authorization"))
        self.bodies.append(request.content)
        return httpx2.Response(200 if self.seen[-1] == f"Bearer {self.takes}" else 401)


def client(server: Server, bearers: Callable[[int | None], Bearer | None]) -> httpx2.AsyncClient:
    async def lookup(refused: int | None) -> Bearer | None:
        return bearers(refused)

    transport = BearerTransport(httpx2.MockTransport(server), URL, lookup)
    return httpx2.AsyncClient(transport=transport)


async def test_R076_the_credential_goes_to_its_origin_only() -> None:
    server = Server()
    async with client(server, lambda _: Bearer("good", 1)) as http:
        assert (await http.post(URL, content=b"x")).status_code == 200
        assert (await http.get("https://M.example/messages")).status_code == 200
        for other in ("http://m.example/mcp", "https://m.example:8443/mcp", "https://x.m.example"):
            assert (await http.get(other)).status_code == 401
    assert server.seen == ["Bearer good"] * 2 + [None] * 3


async def test_R079_no_credential_is_no_header() -> None:
    server = Server()
    async with client(server, lambda _: None) as http:
        await http.get(URL)
    assert server.seen == [None]


async def test_a_refused_request_is_sent_once_more_with_a_renewed_token() -> None:
    server = Server()

    def bearers(refused: int | None) -> Bearer:
        return Bearer("good", 2, True) if refused == 1 else Bearer("old", 1, True)

    async with client(server, bearers) as http:
        assert (await http.post(URL, content=b"call")).status_code == 200
    assert server.seen == ["Bearer old", "Bearer good"]
    assert server.bodies == [b"call", b"call"]


@pytest.mark.parametrize("renewable", [True, False])
async def test_what_cannot_be_renewed_is_not_repeated(*, renewable: bool) -> None:
    server = Server()
    async with client(server, lambda _: Bearer("old", 1, renewable)) as http:
        assert (await http.get(URL)).status_code == 401
    assert len(server.seen) == 1


async def test_a_credential_that_cannot_be_used_sends_nothing() -> None:
    server = Server()

    def refuse(refused: int | None) -> Bearer | None:
        raise CredentialRefused("gone")

    async with client(server, refuse) as http:
        with pytest.raises(CredentialRefused):
            await http.get(URL)
    assert server.seen == []
    assert "good" not in repr(Bearer("good", 1))
