from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import pytest

from intramuros.control.catalog.assertions import Refused
from intramuros.control.catalog.issuer_keys import RETRY_S, IssuerKeys
from intramuros.control.catalog.service import Resource
from intramuros.kernel.timing import ManualClock

pytestmark = pytest.mark.anyio


def issuer(jwks: dict[str, Any]) -> Resource:
    body = {"issuer_url": "https://idp.example.com", "jwks": jwks}
    return Resource("fdis_1", "federation_issuer", "w", None, 1, body, 0, 0, None)


DISCOVERY = {"type": "discovery", "ca_cert_pem": None, "discovery_base": None}


async def test_R356_inline_keys_are_found_by_id(clock: ManualClock) -> None:
    keys = IssuerKeys(clock)
    inline = issuer({"type": "inline", "keys": [{"kid": "a"}, {"kid": "b"}]})
    assert await keys.find(inline, "b") == {"kid": "b"}
    with pytest.raises(Refused, match="unknown_key"):
        await keys.find(inline, "c")
    assert keys.status(inline) is None


async def test_private_addresses_are_not_dialed_and_failures_not_repeated(
    clock: ManualClock,
) -> None:
    asked: list[str] = []

    async def resolver(host: str, port: int) -> Sequence[str]:
        assert port == 443
        asked.append(host)
        return ["10.0.0.1"]

    keys = IssuerKeys(clock, resolver=resolver)
    for _ in range(3):
        with pytest.raises(Refused, match="keys_unavailable"):
            await keys.find(issuer(DISCOVERY), "a")
    assert asked == ["idp.example.com"]
    clock.advance(RETRY_S + 1)
    with pytest.raises(Refused):
        await keys.find(issuer(DISCOVERY), "a")
    assert len(asked) == 2
    status = keys.status(issuer(DISCOVERY))
    assert status is not None
    assert (status["consecutive_failures"], status["last_fetched_at"]) == (2, None)


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example.com",
        "https://idp.example.com:8443",
        "https://localhost",
        "https://10.0.0.1",
        "https://[::1]",
        "https://user@idp.example.com",
        "https://idp.example.com/?a=b",
        "https://idp.example.com/#a",
        "https://idp.example.com:port",
        "https://",
        "file:///etc/passwd",
    ],
)
def test_R356_addresses_that_are_never_dialed(clock: ManualClock, url: str) -> None:
    assert IssuerKeys(clock).check_url(url) is not None


def test_R356_an_operators_own_network_frees_the_port_and_the_name(clock: ManualClock) -> None:
    assert IssuerKeys(clock).check_url("https://idp.example.com/tenant") is None
    own = IssuerKeys(clock, [ip_network("10.0.0.0/8")])
    assert own.check_url("https://idp:8443") is None
    assert own.check_url("http://idp:8443") is not None
