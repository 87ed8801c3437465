import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.egress.policy import (
    ANY,
    NOTHING,
    Hosts,
    Networking,
    OwnRules,
    Policy,
    parse_hosts,
    read_networking,
)
from intramuros.execution.egress.registries import REGISTRIES

PIP, NPM = REGISTRIES["pip"][0], REGISTRIES["npm"][0]
OPEN = OwnRules(allow=ANY)


def limited(**more: object) -> dict[str, object]:
    return {"type": "limited", "allowed_hosts": [], **more}


def policy(
    config: dict[str, object] | None, own: OwnRules = OPEN, urls: tuple[str, ...] = ()
) -> Policy:
    return Policy(own, read_networking(config, urls))


def test_R064_a_name_is_itself_and_a_wildcard_any_depth_below_but_not_the_apex() -> None:
    hosts = parse_hosts(["api.example.com", "*.example.org"])
    assert hosts.covers("api.example.com")
    assert not hosts.covers("x.api.example.com")
    assert not hosts.covers("example.com")
    assert hosts.covers("a.example.org")
    assert hosts.covers("a.b.c.example.org")
    assert not hosts.covers("example.org")
    assert not hosts.covers("notexample.org")
    assert not hosts.covers("example.org.evil.test")


def test_patterns_are_compared_without_case_and_last_dot() -> None:
    assert parse_hosts(["API.Example.com.", "*.Foo.TEST"]).covers("api.example.com")
    assert parse_hosts(["*.Foo.TEST"]).covers("x.foo.test")


@pytest.mark.parametrize("text", ["", "a b", "http://x.test", "x.test/p", "x.test:80", "*x.test",
                                  "*.*.x", "::1", "256.1.1.1", "a..b", "ü.test", "**"])  # fmt: skip
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no host name"):
        parse_hosts([text])


def test_an_ipv4_address_covers_no_name() -> None:
    assert parse_hosts(["192.0.2.1"]) == Hosts()


def test_nothing_is_reachable_by_default() -> None:
    assert not Policy().admits("example.com")
    assert Policy().judge("example.com", 443).rule == "worker_does_not_allow"
    assert not policy({"type": "unrestricted"}, OwnRules()).admits("example.com")


def test_the_stricter_of_environment_and_worker_wins() -> None:
    own = OwnRules(allow=parse_hosts(["a.test", "b.test"]), deny=parse_hosts(["b.test"]))
    rules = policy(limited(allowed_hosts=["a.test", "b.test", "c.test"]), own)
    assert rules.admits("a.test")
    assert rules.judge("b.test", 443).rule == "worker_denies"
    assert rules.judge("c.test", 443).rule == "worker_does_not_allow"
    assert policy(limited(), own).judge("a.test", 443).rule == "environment_does_not_allow"


def test_denial_goes_before_a_wider_permission() -> None:
    own = OwnRules(allow=ANY, deny=parse_hosts(["*.corp.test"]))
    assert not policy({"type": "unrestricted"}, own).admits("git.corp.test")
    assert policy({"type": "unrestricted"}, own).admits("corp.test")


def test_ports_are_those_of_the_web_and_what_the_operator_lists() -> None:
    own = OwnRules(allow=ANY, ports=frozenset({8443}))
    rules = policy({"type": "unrestricted"}, own)
    assert rules.ports() == {80, 443, 8443}
    assert rules.judge("x.test", 8443).allowed
    assert rules.judge("x.test", 22).rule == "port_not_allowed"


def test_an_environment_without_networking_leaves_it_to_the_operator() -> None:
    assert policy(None).admits("x.test")
    assert not policy(None, OwnRules()).admits("x.test")


@pytest.mark.parametrize(
    "config",
    [{}, {"type": "other"}, {"type": "limited"}, {"type": "limited", "allowed_hosts": "x.test"},
     {"type": "limited", "allowed_hosts": ["*", 7, "no host", "x.test/"]}],
)  # fmt: skip
def test_a_form_that_is_not_known_lets_nothing_through(config: dict[str, object]) -> None:
    assert not policy(config).admits("x.test")


def test_R111_mcp_hosts_pass_under_limited_networking_only_if_allowed() -> None:
    urls = ("https://mcp.test/v1", "https://Other.Test:8443/", "nonsense", "http://[bad/")
    closed = policy(limited(allow_mcp_servers=False), urls=urls)
    default = policy(limited(), urls=urls)
    opened = policy(limited(allow_mcp_servers=True), urls=urls)
    for name in ("mcp.test", "other.test"):
        assert not closed.admits(name)
        assert not default.admits(name)
        assert opened.admits(name)
        assert opened.judge(name, 443).rule == "allow_mcp_servers"
    assert not opened.admits("x.mcp.test")
    # A truthy value of another kind is no permission.
    assert not policy(limited(allow_mcp_servers="yes"), urls=urls).admits("mcp.test")


def test_package_managers_open_their_registries_and_no_more() -> None:
    opened = policy(limited(allow_package_managers=True))
    assert opened.judge(PIP, 443).rule == "allow_package_managers"
    assert opened.admits("fr.archive.ubuntu.com")
    assert not opened.admits(f"evil.{PIP}")
    assert not policy(limited()).admits(PIP)


def test_while_installing_only_registries_are_open_and_the_worker_still_counts() -> None:
    rules = policy({"type": "unrestricted"}).installing()
    assert rules.admits(PIP)
    assert not rules.admits("example.com")
    own = OwnRules(allow=parse_hosts(["@package-managers"]), deny=parse_hosts([PIP]))
    confined = policy({"type": "unrestricted"}, own)
    assert not confined.installing().admits(PIP)
    assert confined.installing().admits(NPM)


def test_one_more_name_opens_nothing_that_the_worker_keeps_shut() -> None:
    own = OwnRules(allow=parse_hosts(["github.com"]))
    assert policy(limited(), own).also("github.com").admits("github.com")
    assert not policy(limited(), own).also("gitlab.com").admits("gitlab.com")
    assert not policy(limited(), own).also("github.com").admits("x.github.com")


@pytest.mark.parametrize("name", ["X.test", "x.test.", "1.2.3.4", "", "a b", "0x7f.1"])
def test_a_name_in_another_form_is_never_admitted(name: str) -> None:
    assert not Policy(OPEN, Networking()).admits(name)


LABEL = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
NAME = st.lists(LABEL, min_size=2, max_size=4).map(".".join)


@given(NAME, st.lists(NAME | NAME.map("*.".__add__), max_size=5))
def test_coverage_agrees_with_its_definition(name: str, patterns: list[str]) -> None:
    meant = any(
        name.endswith(p[1:]) and name != p[2:] if p.startswith("*.") else name == p
        for p in patterns
    )
    assert parse_hosts(patterns).covers(name) == meant


@given(NAME, st.lists(NAME, max_size=3), st.lists(NAME, max_size=3))
def test_both_must_admit(name: str, mine: list[str], theirs: list[str]) -> None:
    own = OwnRules(allow=parse_hosts(mine))
    rules = Policy(own, Networking(parse_hosts(theirs)))
    assert rules.admits(name) == (name in mine and name in theirs)
    assert not Policy(own, NOTHING).admits(name)
