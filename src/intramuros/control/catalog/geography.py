"""Where a workspace lets models think: pins of agents against its allow-list (contract 5.28)."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from intramuros.control.store.db import Tx
from intramuros.control.store.tables import workspaces
from intramuros.kernel.errors import InvalidRequest


def check(tx: Tx, workspace_id: str, model: Mapping[str, Any]) -> None:
    """Refuse a model that is pinned to where the workspace allows no inference.

    Raises:
        InvalidRequest: naming the pin and what is allowed.
    """
    pin = model.get("inference_geo")
    if pin is None:
        return
    allowed = _allowed(tx, workspace_id)
    if allowed is not None and pin not in allowed:
        raise InvalidRequest(
            f"model.inference_geo: this workspace allows {', '.join(allowed)}, not {pin!r}"
        )


def _allowed(tx: Tx, workspace_id: str) -> list[str] | None:
    """Return what a workspace allows; None for everything."""
    body: Mapping[str, Any] | None = tx.scalar(
        select(workspaces.c.body).where(workspaces.c.id == workspace_id)
    )
    residency = (body or {}).get("data_residency") or {}
    geos = residency.get("allowed_inference_geos", "unrestricted")
    return None if geos == "unrestricted" else list(geos)
