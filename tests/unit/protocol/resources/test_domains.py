import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.protocol.resources.domains import (
    check_allowed_hosts,
    check_domains,
    check_search_domains,
)


@pytest.mark.parametrize(
    "domain", ["example.com", "Docs.Example.COM", "a-b.co.uk", "x_y.example.org"]
)
@pytest.mark.rule("c6_20")
def test_public_host_names_are_domains(domain: str) -> None:
    assert check_domains([domain]) == [domain]


@pytest.mark.parametrize(
    "domain",
    [
        "",
        "com",
        "localhost",
        "printer.local",
        "db.internal",
        "https://example.com",
        "example.com:443",
        "example.com/path",
        "*.example.com",
        "10.0.0.1",
        "1.2",
        "[::1]",
        "exa mple.com",
        "exämple.com",
        "example.com.",
        "-a.example.com",
        ".example.com",
        "user@example.com",
        "a" * 64 + ".com",
        "a." * 127 + "com" * 2,
    ],
)
@pytest.mark.rule("c6_20")
def test_anything_else_is_named(domain: str) -> None:
    with pytest.raises(ValueError, match="'"):
        check_domains([domain])


@pytest.mark.rule("c6_19", "c6_20")
def test_lists_have_bounds_and_no_repeats() -> None:
    check_domains([f"h{i}.example.com" for i in range(64)])
    for bad in ([], [f"h{i}.example.com" for i in range(65)], ["a.com", "A.com"]):
        with pytest.raises(ValueError, match=r"entries|twice"):
            check_domains(bad)


@pytest.mark.rule("c6_20")
def test_only_search_domains_may_have_a_path() -> None:
    assert check_search_domains(["example.com/blog/2026"])
    for bad in ("example.com/*", "example.com/a?b", "localhost/x", "/x", "example.com/a b"):
        with pytest.raises(ValueError, match="'"):
            check_search_domains([bad])


@pytest.mark.rule("c8_5")
def test_allowed_hosts_are_names_or_patterns() -> None:
    good = ["example.com", "*.example.com", "registry", "10.0.0.1"]
    assert check_allowed_hosts(good) == good
    for bad in ("*", "*.com", "a.*.com", "https://a.com", "a.com:80", "a.com/x", "", "a..com"):
        with pytest.raises(ValueError, match="'"):
            check_allowed_hosts([bad])


@given(text=st.text(max_size=300))
def test_any_text_is_judged_without_failing_otherwise(text: str) -> None:
    for check in (check_domains, check_search_domains, check_allowed_hosts):
        try:
            check([text])
        except ValueError:
            continue
