import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.budgets import BudgetLimit


def limit(amount: str) -> dict[str, object]:
    return {"type": "limit", "max_list_cost": {"amount": amount, "currency": "USD"}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "limit"},
        {"type": "cap", "max_list_cost": {"amount": "1", "currency": "USD"}},
        *(
            {"type": "limit", "max_list_cost": {"amount": amount, "currency": currency}}
            for amount, currency in [
                ("0", "USD"),
                ("-1", "USD"),
                ("01", "USD"),
                ("25.00", "USD"),
                ("1e3", "USD"),
                ("1\n", "USD"),
                ("٣", "USD"),
                ("9" * 16, "USD"),
                (125, "USD"),
                ("125", "EUR"),
                ("125", "usd"),
            ]
        ),
    ],
)
@pytest.mark.rule("R277")
def test_c12_1_an_amount_is_whole_cents_as_text(wrong: dict[str, object]) -> None:
    assert BudgetLimit.model_validate(limit("125")).cents == 125
    with pytest.raises(ValidationError):
        BudgetLimit.model_validate(wrong)
