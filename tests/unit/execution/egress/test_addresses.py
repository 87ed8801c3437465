import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.egress.addresses import NETWORK, Addresses
from intramuros.execution.sandbox.base import RESOLVER

TINY = ipaddress.IPv4Network("10.0.0.0/23")


def test_a_name_keeps_its_address_and_gives_it_back() -> None:
    addresses = Addresses()
    one, other = addresses.of("a.test"), addresses.of("b.test")
    assert one != other
    assert addresses.of("a.test") == one
    assert (addresses.name(one), addresses.name(other)) == ("a.test", "b.test")


def test_addresses_lie_where_nobodys_hosts_are_and_none_is_the_name_servers() -> None:
    addresses = Addresses()
    given_out = {addresses.of(f"n{number}.test") for number in range(300)}
    assert all(ipaddress.IPv4Address(address) in NETWORK for address in given_out)
    assert ipaddress.IPv4Address(RESOLVER) in NETWORK
    assert RESOLVER not in given_out
    assert addresses.name(RESOLVER) is None


def test_an_unknown_address_is_nobodys() -> None:
    assert Addresses().name("198.18.1.0") is None


def test_past_the_limit_the_name_looked_up_longest_ago_loses_its_address() -> None:
    addresses = Addresses(max_names=2)
    first, second = addresses.of("a.test"), addresses.of("b.test")
    addresses.of("a.test")
    third = addresses.of("c.test")
    assert len(addresses) == 2
    assert addresses.name(second) is None
    assert addresses.name(first) == "a.test"
    # What a program still remembers leads nowhere, not to another name.
    assert third != second


def test_an_address_is_used_anew_only_after_all_others() -> None:
    addresses = Addresses(max_names=1, network=TINY)
    seen = [addresses.of(f"n{number}.test") for number in range(510)]
    assert len(set(seen[:255])) == 255
    assert seen[255:] == seen[:255]


@pytest.mark.parametrize("wanted", [0, -1, 10_000])
def test_more_names_than_addresses_are_refused(wanted: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Addresses(wanted, TINY)


@given(st.lists(st.integers(0, 12), max_size=200))
def test_both_ways_agree_whatever_is_looked_up(asked: list[int]) -> None:
    addresses = Addresses(max_names=5, network=TINY)
    for number in asked:
        name = f"n{number}.test"
        address = addresses.of(name)
        assert addresses.name(address) == name
        assert len(addresses) <= 5
