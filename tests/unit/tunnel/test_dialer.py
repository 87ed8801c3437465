import ssl

import pytest

from intramuros.kernel.wire import ConnectFailed, Wire
from intramuros.protocol.dial import LINK_ALPN
from intramuros.tunnel import dialer as module
from intramuros.tunnel.dialer import EdgeAddress, EdgeDialer, Transport, Trust

pytestmark = pytest.mark.anyio
EDGE = EdgeAddress("edge.example", 443)


class Found(Wire):
    """A connection on which TLS chose a protocol."""

    def __init__(self, alpn: str | None) -> None:
        super().__init__()
        self.chosen = alpn

    @property
    def alpn(self) -> str | None:
        return self.chosen


class Way:
    """What lies between; it tells which of the two kinds of TLS was tried, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trust = Trust(*(ssl.create_default_context() for _ in range(3)))
        self.tried: list[str] = []
        self.direct: str | None = LINK_ALPN
        self.wrapped = True
        monkeypatch.setattr(module, "connect_tls", self.connect)
        monkeypatch.setattr(module.websocket, "ask", self.ask)
        monkeypatch.setattr(module, "PAUSE_S", 0)

    async def connect(self, *given: object, **_: object) -> Wire:
        if given[2] is self.trust.direct:
            self.tried.append("direct")
            if self.direct in ("tls", "refused", "certificate", "reset"):
                raise ConnectFailed(self.direct, "no")
            return Found(self.direct)
        self.tried.append("websocket")
        if not self.wrapped:
            raise ConnectFailed("refused", "no")
        return Found("http/1.1")

    async def ask(self, outer: Wire, _host: str, _port: int) -> Wire:
        return outer


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Way:
    return Way(monkeypatch)


async def test_what_passes_is_taken_as_it_is(way: Way) -> None:
    assert (await EdgeDialer(way.trust).connect(EDGE)).alpn == LINK_ALPN
    assert way.tried == ["direct"]


@pytest.mark.parametrize("found", [None, "http/1.1", "tls", "reset"])
async def test_what_does_not_pass_is_wrapped_and_that_is_remembered(
    way: Way, found: str | None
) -> None:
    way.direct = found
    dialer = EdgeDialer(way.trust)
    await dialer.connect(EDGE)
    await dialer.connect(EDGE)
    assert way.tried == ["direct", "websocket", "websocket"]
    way.wrapped = False
    with pytest.raises(ConnectFailed):
        await dialer.connect(EDGE)
    way.direct = LINK_ALPN
    await dialer.connect(EDGE)
    assert way.tried == ["direct", "websocket", "websocket", "websocket", "direct"]


@pytest.mark.parametrize("reason", ["refused", "certificate"])
async def test_what_has_another_cause_is_not_tried_twice(way: Way, reason: str) -> None:
    way.direct = reason
    with pytest.raises(ConnectFailed):
        await EdgeDialer(way.trust).connect(EDGE)
    assert way.tried == ["direct"]


async def test_a_choice_is_kept_to(way: Way) -> None:
    await EdgeDialer(way.trust, Transport.WEBSOCKET).connect(EDGE)
    way.direct = None
    with pytest.raises(ConnectFailed, match="no edge"):
        await EdgeDialer(way.trust, Transport.DIRECT).connect(EDGE)
    assert way.tried == ["websocket", "direct"]


def test_an_address_is_shown() -> None:
    assert str(EDGE) == "edge.example:443"
