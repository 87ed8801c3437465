"""An agent's model as it is stored: every setting resolved, impossible ones refused."""

from collections.abc import Mapping
from typing import Any

from intramuros.control.model.catalogue import Catalogue
from intramuros.protocol.resources.agents import ModelConfig


def settle(
    known: Catalogue, sent: str | ModelConfig, stored: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the resolved model; an omitted effort stays while the model does (contract 5.14).

    Args:
        known: decides defaults and refusals; a model it does not know takes every setting.
        sent: what the caller asked for.
        stored: the agent's present model, on update.

    Raises:
        InvalidRequest: the model lacks the effort level or the speed (contract 5.5).
    """
    model = ModelConfig(id=sent) if isinstance(sent, str) else sent
    known.check(model.id, model.effort_level, model.speed)
    effort: str = model.effort_level or known.default_effort(model.id)
    if model.effort_level is None and stored is not None and stored["id"] == model.id:
        effort = stored["effort"]["type"]
    return {
        "id": model.id,
        "effort": {"type": effort},
        "inference_geo": model.inference_geo,
        "speed": model.speed or "standard",
    }


def overridden(known: Catalogue, sent: str | ModelConfig) -> dict[str, Any]:
    """Return the model of a session's override, where an effort is not applied (contract 10.6).

    Raises:
        InvalidRequest: the model lacks the speed.
    """
    model = ModelConfig(id=sent) if isinstance(sent, str) else sent
    return settle(known, model.model_copy(update={"effort": None}))
