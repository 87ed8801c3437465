"""The structural check itself finds what it is there to find."""

from typing import Any

import pytest
from anthropic.types.beta import BetaEnvironment, BetaManagedAgentsAgent

from tests.wire.structure import check

ENVIRONMENT = {
    "id": "env_1",
    "type": "environment",
    "name": "e",
    "description": None,
    "archived_at": None,
    "config": {
        "type": "cloud",
        "networking": {"type": "unrestricted"},
        "packages": {
            "type": "packages",
            "apt": [],
            "cargo": [],
            "gem": [],
            "go": [],
            "npm": [],
            "pip": ["x"],
        },
    },
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
    "metadata": {"a": "1"},
    "scope": "organization",
}


def built(**change: Any) -> BetaEnvironment:
    return BetaEnvironment.construct(**{**ENVIRONMENT, **change})


def test_a_whole_answer_passes() -> None:
    check(built())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "name: expected"),
        ({"metadata": None}, "metadata: expected an object"),
        ({"metadata": {"a": 1}}, r"metadata\['a'\]: expected"),
        ({"scope": "galaxy"}, "scope: "),
        ({"type": "thing"}, "type: 'thing'"),
        ({"config": {"type": "cloud", "packages": {}}}, "networking: missing"),
        ({"config": {**ENVIRONMENT["config"], "packages": {"pip": "x"}}}, "pip: expected a list"),
        ({"archived_at": 7}, "archived_at: "),
    ],
)
def test_what_is_wrong_is_found(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(built(**change))


def test_members_that_are_missing_are_found() -> None:
    left = {name: value for name, value in ENVIRONMENT.items() if name != "description"}
    answer = BetaEnvironment.construct(**left)
    with pytest.raises(AssertionError, match="description: missing"):
        check(answer)
    check(answer, nullable=False)


def test_times_that_were_not_parsed_are_found() -> None:
    with pytest.raises(AssertionError, match=r"created_at: .*not parsed as a time"):
        check(BetaManagedAgentsAgent.construct(created_at="yesterday"))
