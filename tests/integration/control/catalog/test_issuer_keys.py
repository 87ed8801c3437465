"""Keys over real TLS: rotation, staleness, foreign certificates and addresses."""

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from joserfc.jwk import RSAKey

from intramuros.control.catalog.assertions import Refused
from intramuros.control.catalog.issuer_keys import FRESH_S, RETRY_S, STALE_S, IssuerKeys
from intramuros.control.catalog.service import Resource
from intramuros.kernel.timing import ManualClock
from tests.wire.provider import Provider, running_provider

pytestmark = pytest.mark.anyio

LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1/128")]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider() as made:
        yield made


def issuer(provider: Provider, **jwks: Any) -> Resource:
    config = {"type": "discovery", "ca_cert_pem": provider.ca_pem, "discovery_base": None, **jwks}
    body = {"issuer_url": provider.url, "jwks": config}
    return Resource("fdis_1", "federation_issuer", "w", None, 1, body, 0, 0, None)


async def test_a_new_key_is_fetched_and_an_unknown_one_not_asked_for_at_will(
    provider: Provider,
) -> None:
    clock = ManualClock()
    keys = IssuerKeys(clock, LOOPBACK)
    await keys.find(issuer(provider), "rsa")
    provider.keys["next"] = RSAKey.generate_key(2048)
    for _ in range(3):
        with pytest.raises(Refused, match="unknown_key"):
            await keys.find(issuer(provider), "next")
    assert len(provider.asked) == 2
    clock.advance(RETRY_S + 1)
    assert (await keys.find(issuer(provider), "next"))["kid"] == "next"
    assert len(provider.asked) == 4


async def test_known_keys_outlive_an_outage_but_not_for_long(provider: Provider) -> None:
    clock = ManualClock()
    keys = IssuerKeys(clock, LOOPBACK)
    source = issuer(provider)
    await keys.find(source, "rsa")
    provider.keys.clear()
    provider.url = "https://localhost:1"  # what discovery now points at does not answer
    clock.advance(FRESH_S + 1)
    assert (await keys.find(source, "rsa"))["kid"] == "rsa"
    status = keys.status(source)
    assert status is not None
    assert status["consecutive_failures"] == 1
    clock.advance(STALE_S)
    with pytest.raises(Refused, match="keys_unavailable"):
        await keys.find(source, "rsa")


async def test_foreign_certificates_and_addresses_are_not_believed(provider: Provider) -> None:
    with pytest.raises(Refused, match="keys_unavailable"):
        await IssuerKeys(ManualClock(), LOOPBACK).find(issuer(provider, ca_cert_pem=None), "rsa")
    elsewhere = IssuerKeys(ManualClock(), [ip_network("10.0.0.0/8")])
    with pytest.raises(Refused, match="keys_unavailable"):
        await elsewhere.find(issuer(provider), "rsa")
    assert provider.asked == []
