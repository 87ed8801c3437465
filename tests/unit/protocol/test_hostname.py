import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.protocol.hostname import BadHost, check_host, is_under


@pytest.mark.parametrize(
    "host", ["a.b", "docs.k3v9.tunnel.intramuros.internal", "1.2.3.4a", "x-y.z"]
)
def test_names_pass(host: str) -> None:
    assert check_host(host) == host


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a",
        "A.b",
        "a.b.",
        ".a.b",
        "a..b",
        "-a.b",
        "a-.b",
        "a_b.c",
        "10.0.0.1",
        "1.2.3.400",
        "0x7f.1",
        "[::1]",
        "a.b:443",
        "a.b\n",
        "xn--é.b",
        "a" * 64 + ".b",
        ".".join(["abcdefgh"] * 29),
    ],
)
def test_anything_else_is_refused(host: str) -> None:
    with pytest.raises(BadHost):
        check_host(host)


@given(st.ip_addresses())
def test_no_address_is_a_host(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    with pytest.raises(BadHost):
        check_host(str(address))


@pytest.mark.parametrize(
    ("host", "expected"),
    [("a.t.x", True), ("t.x", False), ("a.b.t.x", False), ("a.u.x", False), (".t.x", False)],
)
def test_only_one_label_below_the_domain_is_under_it(host: str, expected: bool) -> None:
    assert is_under(host, "t.x") is expected
