import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.tunnel.routes import (
    AddressRule,
    BadUpstream,
    Route,
    RouteTable,
    Upstream,
    parse_upstream,
)

DOMAIN = "k3v9.tunnel.example"
DOCS, FULL = Upstream("http", "10.0.0.5", 8080), Upstream("https", "wiki.corp", 8443)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://10.0.0.5:8080", Upstream("http", "10.0.0.5", 8080)),
        ("HTTPS://Wiki.Corp:443", Upstream("https", "wiki.corp", 443)),
        ("http://[fd00::1]:80", Upstream("http", "fd00::1", 80)),
    ],
)
@pytest.mark.rule("R319")
def test_upstreams(text: str, expected: Upstream) -> None:
    assert parse_upstream(text) == expected
    assert parse_upstream(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.5:8080",
        "http://10.0.0.5",
        "http://10.0.0.5:8080/",
        "http://10.0.0.5:8080/mcp",
        "http://10.0.0.5:8080?x",
        "http://user@10.0.0.5:8080",
        "http://10.0.0.5:0",
        "http://10.0.0.5:65536",
        "ftp://10.0.0.5:21",
        "http://a b:80",
        "http://a:80\n",
    ],
)
@pytest.mark.rule("R319")
def test_bad_upstreams(text: str) -> None:
    with pytest.raises(BadUpstream):
        parse_upstream(text)


def test_authority_leaves_out_the_default_port() -> None:
    assert Upstream("http", "a", 80).authority == "a"
    assert Upstream("https", "a", 80).authority == "a:80"
    assert Upstream("http", "fd00::1", 8080).authority == "[fd00::1]:8080"


@pytest.mark.rule("R317", "R318")
def test_the_exact_key_wins_over_the_label() -> None:
    table = RouteTable({"docs": DOCS, f"docs.{DOMAIN}": FULL}, DOMAIN)
    assert table.match(f"docs.{DOMAIN}") == Route(f"docs.{DOMAIN}", FULL)
    table = RouteTable({"docs": DOCS}, DOMAIN)
    assert table.match(f"docs.{DOMAIN}") == Route("docs", DOCS)


@pytest.mark.parametrize(
    "host",
    [
        "docs",
        DOMAIN,
        f".{DOMAIN}",
        "docs.other.tunnel.example",
        f"a.docs.{DOMAIN}",
        f"wiki.{DOMAIN}",
        f"docs.{DOMAIN}.",
        f"docs{DOMAIN}",
    ],
)
def test_no_other_host_matches(host: str) -> None:
    table = RouteTable({"docs": DOCS}, DOMAIN)
    assert host == "docs" or table.match(host) is None


def test_which_hosts_are_ours() -> None:
    table = RouteTable({"docs": DOCS, "wiki.corp.example": FULL}, DOMAIN)
    assert table.serves(f"anything.{DOMAIN}")
    assert table.serves("wiki.corp.example")
    assert not table.serves("docs.other.tunnel.example")
    assert not RouteTable({"a.b": DOCS}, "").serves("x.y")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("172.32.0.1", False),
        ("192.168.1.1", True),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("8.8.8.8", False),
        ("::1", False),
        ("::ffff:10.0.0.1", True),
        ("::ffff:127.0.0.1", False),
        ("fd00::1", False),
        ("fe80::1", False),
    ],
)
@pytest.mark.rule("R322")
def test_default_addresses_are_rfc_1918(address: str, allowed: bool) -> None:
    assert AddressRule().allows(ipaddress.ip_address(address)) is allowed


@pytest.mark.rule("R322")
def test_t26_a_list_replaces_the_default() -> None:
    rule = AddressRule((ipaddress.ip_network("127.0.0.1"), ipaddress.ip_network("fd00::/8")))
    assert rule.allows(ipaddress.ip_address("127.0.0.1"))
    assert rule.allows(ipaddress.ip_address("fd12::1"))
    assert not rule.allows(ipaddress.ip_address("10.0.0.1"))


@given(st.ip_addresses())
def test_switched_off_still_refuses_what_no_server_has(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if AddressRule(anything=True).allows(address):
        assert not address.is_multicast
        assert not address.is_unspecified


def rule(*networks: str, anything: bool = False) -> AddressRule:
    return AddressRule(tuple(map(ipaddress.ip_network, networks)), anything)


@pytest.mark.parametrize(
    ("wide", "narrow", "covers"),
    [
        (rule("10.0.0.0/8"), rule("10.1.0.0/16", "10.2.0.1"), True),
        (rule("10.1.0.0/16"), rule("10.0.0.0/8"), False),
        (rule("10.0.0.0/8", "fd00::/8"), rule("fd00::1", "10.0.0.1"), True),
        (rule("10.0.0.0/8"), rule("fd00::1"), False),
        (rule("fd00::/8"), rule("10.0.0.1"), False),
        (rule(anything=True), rule("10.0.0.0/8"), True),
        (rule("0.0.0.0/0", "::/0"), rule(anything=True), False),
        (rule(anything=True), rule(anything=True), True),
    ],
)
def test_a_rule_covers_another(wide: AddressRule, narrow: AddressRule, covers: bool) -> None:
    assert wide.covers(narrow) is covers
