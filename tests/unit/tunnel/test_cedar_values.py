import json
from typing import Any

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.tunnel.cedar_values import MAX_CHARS, MAX_DEPTH, Unjudgeable, cedar_record

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        (None, {}),
        (True, True),
        (5, 5),
        (5.0, 5),
        (2**63, str(2**63)),
        (-(2**63), -(2**63)),
        (1.5, {"__extn": {"fn": "decimal", "arg": "1.5000"}}),
        (0.00001, "1e-05"),
        (1e300, "1e+300"),
        (float("inf"), "inf"),
        ([1, [None]], [1, [{}]]),
    ],
)
def test_values_keep_what_a_policy_must_see(given_: Any, told: Any) -> None:
    assert cedar_record({"x": given_}) == {"x": told}


@pytest.mark.parametrize(
    "arguments",
    [
        {"x": {"__entity": {"type": "User", "id": "user_1"}}},
        {"__extn": {"fn": "ip", "arg": "1.1.1.1"}},
        {"x": [{"__expr": "true"}]},
        {"x": "\ud800"},
        {"\udfff": 1},
        {"x": "a" * (MAX_CHARS + 1)},
        {"x": [0] * 20_000},
        {"x": object()},
        {"path": "/srv/shared/a", "Path": "/etc/shadow"},
        {"x": [{"stra\u00dfe": 1, "STRASSE": 2}]},
    ],
)
def test_what_cedar_cannot_hold_is_not_judged(arguments: dict[str, object]) -> None:
    with pytest.raises(Unjudgeable):
        cedar_record(arguments)


def test_deep_nesting_is_not_judged() -> None:
    deep: object = 1
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(Unjudgeable, match="deep"):
        cedar_record({"x": deep})


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_whatever_is_told_cedar_takes(arguments: dict[str, object]) -> None:
    try:
        record = cedar_record(arguments)
    except Unjudgeable:
        return
    json.dumps(record)
    result = cedarpy.is_authorized(
        {
            "principal": {"type": "User", "id": "u"},
            "action": {"type": "Action", "id": "a"},
            "resource": {"type": "Tool", "id": "t"},
            "context": {"arguments": record},
        },
        "permit(principal, action, resource);",
        [],
    )
    assert result.allowed, result.diagnostics.errors
