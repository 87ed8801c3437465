import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.limits import MAX_RATE, RateLimitUpdate, SpendLimitSet


def test_limiters_are_set_and_cleared() -> None:
    body = {
        "limits": [
            {"type": "requests_per_minute", "value": 0},
            {"type": "tokens_per_day", "value": None},
        ]
    }
    assert [one.value for one in RateLimitUpdate.model_validate(body).limits] == [0, None]


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"limits": None},
        {"limits": [{"type": "requests_per_minute"}]},
        {"limits": [{"type": "requests_per_minute", "value": True}]},
        {"limits": [{"type": "requests_per_minute", "value": "1"}]},
        {"limits": [{"type": "requests_per_minute", "value": MAX_RATE + 1}]},
        {"limits": [{"type": "requests_per_minute", "value": 1}] * 2},
    ],
)
def test_what_is_no_limit_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RateLimitUpdate.model_validate(bad)


def test_R372_a_spend_limit_is_monthly_unless_said_otherwise() -> None:
    scope = {"type": "organization"}
    assert SpendLimitSet.model_validate({"amount": "0", "scope": scope}).period == "monthly"
    for bad in (
        {"scope": scope},
        {"amount": 5, "scope": scope},
        {"amount": "5", "scope": scope, "period": "yearly"},
        {"amount": "5", "scope": {"type": "workspace"}},
        {"amount": "5", "scope": {"type": "organization", "x": 1}},
    ):
        with pytest.raises(ValidationError):
            SpendLimitSet.model_validate(bad)
