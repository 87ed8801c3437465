from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.egress.policy import ANY, OwnRules, Policy
from intramuros.execution.egress.rules import (
    MAX_VALUE_CHARS,
    OPERATORS_ALONE,
    SessionRules,
    Variable,
    read_rules,
)

VARIABLE = {
    "credential_id": "vcrd_1",
    "name": "TOKEN",
    "value": "secret-value",
    "allowed_hosts": ["api.test", "*.wild.test"],
    "header": True,
    "body": False,
}


def answer(**more: Any) -> dict[str, Any]:
    return {
        "type": "session_egress",
        "networking": {"type": "limited", "allowed_hosts": ["api.test"]},
        "mcp_server_urls": [],
        "variables": [],
        **more,
    }


def admits(rules: SessionRules, name: str) -> bool:
    return Policy(OwnRules(allow=ANY), rules.networking).admits(name)


def variables(*items: Any) -> tuple[Variable, ...]:
    return read_rules(answer(variables=list(items))).variables


def test_an_environments_hosts_are_let_through_and_no_others() -> None:
    rules = read_rules(answer())
    assert admits(rules, "api.test")
    assert not admits(rules, "other.test")


def test_a_self_hosted_environment_has_no_rules_of_its_own_and_no_secrets() -> None:
    assert admits(OPERATORS_ALONE, "any.test")
    assert OPERATORS_ALONE.variables == ()
    assert not Policy(OwnRules(), OPERATORS_ALONE.networking).admits("any.test")


def test_rules_that_let_nothing_through_let_nothing_through() -> None:
    assert not admits(SessionRules.nothing(), "api.test")


def test_a_variable_says_where_it_may_go() -> None:
    (variable,) = variables(VARIABLE)
    assert (variable.name, variable.value, variable.credential_id) == (
        "TOKEN",
        "secret-value",
        "vcrd_1",
    )
    assert variable.hosts.covers("api.test")
    assert variable.hosts.covers("a.wild.test")
    assert not variable.hosts.covers("wild.test")
    assert (variable.header, variable.body) == (True, False)
    assert "secret-value" not in repr(variable)


def test_a_variable_without_a_list_may_go_anywhere() -> None:
    (variable,) = variables({**VARIABLE, "allowed_hosts": None})
    assert variable.hosts.covers("any.test")


@pytest.mark.parametrize("hosts", ["api.test", [1], ["http://api.test"], {}, ["*"], []])
def test_a_list_of_another_form_lets_it_go_nowhere(hosts: object) -> None:
    (variable,) = variables({**VARIABLE, "allowed_hosts": hosts})
    assert not variable.hosts.covers("api.test")


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "A=B"},
        {"name": "A\0B"},
        {"name": "1A"},
        {"name": 5},
        {"value": ""},
        {"value": None},
        {"value": "x" * (MAX_VALUE_CHARS + 1)},
        {"credential_id": None},
    ],
)
def test_a_variable_of_another_form_is_left_out(change: dict[str, Any]) -> None:
    assert variables({**VARIABLE, **change}, "no object") == ()


def test_flags_are_on_only_when_they_are_true() -> None:
    (variable,) = variables({**VARIABLE, "header": "yes", "body": 1})
    assert (variable.header, variable.body) == (False, False)


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        {},
        answer(type="other"),
        answer(networking=None),
        answer(networking="unrestricted"),
        answer(mcp_server_urls=None),
    ],
)
def test_what_is_no_answer_is_no_rule(raw: object) -> None:
    with pytest.raises(ValueError, match="malformed"):
        read_rules(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "allowed_hosts", "name", "value", "allow_mcp_servers"]), inner
        )
    ),
    max_leaves=12,
)


@given(JSON, JSON, JSON)
def test_foreign_rules_never_let_through_what_they_do_not_name(
    networking: object, urls: object, listed: object
) -> None:
    try:
        rules = read_rules(answer(networking=networking, mcp_server_urls=urls, variables=listed))
    except ValueError:
        return
    unrestricted = isinstance(networking, dict) and networking.get("type") == "unrestricted"
    assert unrestricted or not admits(rules, "never.named.test")
