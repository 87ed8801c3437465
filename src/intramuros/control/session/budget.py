"""A session's budget: who may have one, how it may change, and what it lets in. Pure.

The cap itself is part of the state (``State.budget_cents``): it is told to the log by an internal
mark when the session begins and by ``session.updated`` when it changes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from intramuros.control.model import cost
from intramuros.control.model.catalogue import Price
from intramuros.control.session.state import State
from intramuros.control.session.usage import list_cost
from intramuros.control.store.records import Draft
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.events import SETTLING, Inbound
from intramuros.protocol.resources.budgets import BudgetLimit

Shown = dict[str, Any]

MARK: Final = "internal.budget"


def models_of(agent: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return model and speed of everything that an agent snapshot can run (contract 12.5).

    That is the agent itself, and whoever is on its roster.
    """
    team = agent.get("multiagent") or {}
    members = [agent, *team.get("agents", ()), team.get("advisor")]
    for part in ("subagents", "workflows"):
        members += (team.get(part) or {}).get("predefined_agents", ())
    return [_named(member["model"]) for member in members if member and member.get("model")]


def check_model(model: str, price: Price | None) -> None:
    """Refuse a budget for a model without a list price.

    Raises:
        InvalidRequest: naming the model (``model_not_budgetable``).
    """
    if price is None:
        raise InvalidRequest(
            f"budget: no list price is available for the model {model!r}, so no budget can be "
            "kept (model_not_budgetable); an operator may name one in --models-file",
            code="model_not_budgetable",
        )


def opening(wanted: BudgetLimit) -> Draft:
    """Return the mark that begins the log of a session with a budget."""
    return Draft(MARK, {"budget": shown(wanted.cents)})


def change(state: State, wanted: BudgetLimit | None, now_us: int) -> tuple[bool, Shown | None]:
    """Judge a new budget, or its removal; the models are judged apart.

    Returns:
        Whether it changes anything, and the budget as the API will show it.

    Raises:
        InvalidRequest: the session never had one or lost it (``budget_create_only``), the cost so
            far cannot be measured (``model_not_budgetable``), or it is not below the new cap
            (``budget_not_raised``).
    """
    if wanted is None:
        return state.budget_cents is not None, None
    if state.budget_cents is None:
        raise InvalidRequest(
            "budget: a session without one cannot get one (budget_create_only)",
            code="budget_create_only",
        )
    if state.usage.unpriced:
        raise InvalidRequest(
            "budget: the session used a model without a list price, so its cost cannot be measured "
            "(model_not_budgetable); remove the budget with null to go on",
            code="model_not_budgetable",
        )
    spent = list_cost(state.usage, state.active_us_at(now_us))
    if wanted.cents * cost.UNITS_PER_CENT <= spent:
        raise InvalidRequest(
            "budget.max_list_cost must be greater than the session's consumed list cost "
            f"of {cost.exact_cents(spent)} cents (budget_not_raised)",
            code="budget_not_raised",
        )
    return wanted.cents != state.budget_cents, shown(wanted.cents)


def refuse_work(inbound: Sequence[Inbound]) -> None:
    """Let nothing in that would start work at the cap (contract 12.7).

    Raises:
        InvalidRequest: naming the event, and what is let in.
    """
    for index, event in enumerate(inbound):
        if event.type not in SETTLING:
            raise InvalidRequest(
                f"events[{index}]: the session has reached its budget and takes no {event.type}; "
                f"it accepts only {', '.join(SETTLING)} until the budget is raised or removed",
                code="budget_reached",
            )


def shown(cents: int | None) -> Shown | None:
    """Return a budget as the API shows it, or None for none."""
    return None if cents is None else {"type": "limit", "max_list_cost": cost.amount(cents)}


def _named(model: object) -> tuple[str, str]:
    if isinstance(model, Mapping):
        return str(model["id"]), str(model.get("speed") or "standard")
    return str(model), "standard"
