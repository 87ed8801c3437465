import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.catalog.claims import (
    check_match,
    check_times,
    is_sufficient,
    pins_tenant,
)

NOW = 1_700_000_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iat": NOW, "exp": NOW + 60}, None),
        ({"iat": NOW - 60, "exp": NOW - 29}, None),
        ({"iat": NOW - 60, "exp": NOW - 30}, "expired"),
        ({"iat": NOW + 30, "exp": NOW + 60}, None),
        ({"iat": NOW + 31, "exp": NOW + 60}, "not_yet_valid"),
        ({"iat": NOW, "exp": NOW + 60, "nbf": NOW + 31}, "not_yet_valid"),
        ({"iat": NOW, "exp": NOW + 60, "nbf": "now"}, "not_yet_valid"),
        ({"iat": NOW, "exp": NOW + 3601}, "lifetime"),
        ({"iat": NOW, "exp": NOW}, "lifetime"),
        ({"exp": NOW + 60}, "missing_times"),
        ({"iat": NOW, "exp": math.nan}, "missing_times"),
        ({"iat": True, "exp": NOW + 60}, "missing_times"),
        ({"iat": NOW, "exp": 10**400}, "missing_times"),
    ],
)
def test_R346_R347_times(claims: dict[str, Any], reason: str | None) -> None:
    assert check_times(claims, 3600, NOW) == reason


@pytest.mark.parametrize(
    ("match", "reason"),
    [
        ({"subject_prefix": "repo:a/b"}, None),
        ({"subject_prefix": "repo:a/*"}, None),
        ({"subject_prefix": "repo:a/"}, "match_subject_prefix"),
        ({"subject_prefix": "Repo:a/*"}, "match_subject_prefix"),
        ({"claims": {"ref": "main"}}, None),
        ({"claims": {"ref": "main", "run": "7"}}, "match_claims"),
        ({"claims": {"nothing": "None"}}, "match_claims"),
        ({"claims": {"ref": "main"}, "audience": "two"}, None),
        ({"claims": {"ref": "main"}, "audience": "three"}, "match_audience"),
    ],
)
def test_R350_R351_every_condition_must_hold(match: dict[str, Any], reason: str | None) -> None:
    claims = {"sub": "repo:a/b", "aud": ["one", "two"], "ref": "main", "run": 7}
    assert check_match(claims, match, ["one"]) == reason


def test_without_an_audience_of_its_own_the_servers_counts() -> None:
    claims = {"sub": "a", "aud": "one"}
    assert check_match(claims, {"subject_prefix": "a"}, []) == "match_audience"
    assert check_match({"sub": "a"}, {"subject_prefix": "a"}, ["one"]) == "match_audience"
    assert check_match({"aud": "one"}, {"claims": {}}, ["one"]) == "missing_subject"


def test_R350_R351_an_audience_or_a_bare_star_is_not_enough() -> None:
    assert not is_sufficient({"audience": "a", "subject_prefix": "*", "claims": {}})
    assert not is_sufficient({"audience": "a", "subject_prefix": None})
    assert is_sufficient({"subject_prefix": "a*"})
    assert is_sufficient({"claims": {"a": "b"}})


@pytest.mark.parametrize(
    ("url", "tight", "loose"),
    [
        ("https://token.actions.githubusercontent.com", "repo:acme/*", "repo:ac*"),
        ("https://gitlab.com", "project_path:acme/*", "project_path:*"),
        ("https://agent.buildkite.com", "organization:acme:*", "organization:acme*"),
        ("https://app.terraform.io/", "organization:acme:*", "org*"),
        ("https://accounts.google.com", "1234", "12*"),
    ],
)
def test_R353_shared_issuers_must_name_the_tenant(url: str, tight: str, loose: str) -> None:
    assert pins_tenant(url, {"subject_prefix": tight})
    assert not pins_tenant(url, {"subject_prefix": loose, "claims": {"ref": "main"}})
    assert pins_tenant("https://idp.example", {"subject_prefix": loose})
    github = "https://token.actions.githubusercontent.com"
    assert pins_tenant(github, {"claims": {"repository_owner_id": "1"}})


@given(st.dictionaries(st.sampled_from(["sub", "aud", "iat", "exp", "nbf", "x"]), JSON))
def test_foreign_claims_of_any_shape_are_judged(claims: dict[str, Any]) -> None:
    check_times(claims, 3600, NOW)
    assert check_match(claims, {"subject_prefix": "only this", "claims": {"x": "y"}}, ["a"]) in (
        None,
        "match_audience",
        "missing_subject",
        "match_subject_prefix",
        "match_claims",
    )
