"""Budgets, of sessions and deployments (contract section 12, R277)."""

from typing import Annotated, Literal

from pydantic import StringConstraints

from intramuros.protocol.resources.base import Request, Response

# Fifteen digits are ten thousand billion dollars, and stay exact wherever they are read.
Cents = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,14}$")]


class MonetaryAmount(Request):
    """Money: whole cents as text, without leading zeros, more than none."""

    amount: Cents
    currency: Literal["USD"]


class Money(Response):
    """The same in answers, where it may be nothing."""

    amount: str
    currency: Literal["USD"]


class BudgetLimit(Request):
    """The most that a session may cost at list prices."""

    type: Literal["limit"]
    max_list_cost: MonetaryAmount

    @property
    def cents(self) -> int:
        """The cap in cents."""
        return int(self.max_list_cost.amount)
