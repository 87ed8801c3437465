from hypothesis import given
from hypothesis import strategies as st

from intramuros.web.domains import Rules, covers, rules_of

NAME = st.from_regex(r"\A[a-z]{1,3}(\.[a-z]{1,3}){1,3}\Z")
RULES = st.builds(
    Rules,
    st.lists(st.lists(NAME, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    st.lists(NAME, max_size=3).map(tuple),
)


def test_a_domain_covers_its_subdomains_and_no_other() -> None:
    assert covers("example.com", "example.com")
    assert covers("Example.COM", "docs.example.com")
    assert not covers("docs.example.com", "example.com")
    assert not covers("docs.example.com", "api.example.com")
    assert not covers("www.example.com", "example.com")
    assert not covers("example.com", "badexample.com")
    assert not covers("example.com", "example.com.evil.org")


def test_a_path_covers_what_lies_below_it_however_it_is_spelt() -> None:
    for path in ("/blog", "/blog/", "/blog/post?x=1", "/%62log/post", "/a/../blog/x", "//blog/x"):
        assert covers("example.com/blog", "example.com", path), path
    for path in ("/", "/blogging", "/a/blog", "/blog/../x"):
        assert not covers("example.com/blog", "example.com", path), path
    assert covers("example.com/", "example.com", "/x")


def test_no_list_permits_every_host() -> None:
    assert rules_of(None, None).permits("anything.example")
    assert not rules_of(None, None).barren


def test_lists_allow_or_block() -> None:
    allow = rules_of(["a.com", "b.com"], None)
    assert allow.permits("x.a.com")
    assert not allow.permits("c.com")
    block = rules_of(None, ["a.com"])
    assert block.permits("c.com")
    assert not block.permits("x.a.com")


def test_all_lists_bind_at_once() -> None:
    both = rules_of(["a.com"], None).within([rules_of(["x.a.com", "b.com"], ["y.x.a.com"])])
    assert both.permits("x.a.com")
    assert not both.permits("a.com")
    assert not both.permits("b.com")
    assert not both.permits("y.x.a.com")
    assert both.common() == ("x.a.com",)


def test_lists_without_a_common_domain_permit_nothing_and_say_so() -> None:
    none = rules_of(["a.com"], None).within([rules_of(["b.com"], None)])
    assert none.barren
    assert not none.permits("a.com")
    assert not rules_of(["a.com/x"], None).within([rules_of(["a.com"], None)]).barren


@given(RULES, RULES, NAME)
def test_more_rules_never_permit_more(one: Rules, other: Rules, host: str) -> None:
    both = one.within([other])
    assert both.permits(host) == (one.permits(host) and other.permits(host))


@given(RULES, NAME)
def test_barren_rules_permit_no_host(rules: Rules, host: str) -> None:
    if rules.barren:
        assert not rules.permits(host)
    common = rules.common()
    if rules.permits(host) and rules.allowed:
        assert any(covers(entry, host) for entry in common)
