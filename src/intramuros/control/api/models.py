"""``/v1/models``: what is known of the models that agents and requests may name."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from intramuros.control.api.access import Gate, ServicesDep
from intramuros.control.api.pages import check_limit
from intramuros.control.api.replies import reply
from intramuros.control.api.services import Services
from intramuros.control.identity.principal import Principal, Scope
from intramuros.control.model.catalogue import Lifecycle, ModelEntry
from intramuros.kernel.errors import InvalidRequest, NotFound

router = APIRouter(prefix="/v1/models", tags=["models"])

DEFAULT_PAGE: Final = 20
MAX_PAGE: Final = 1000

# The official SDK sends no beta header here.
Inference = Annotated[Principal, Depends(Gate(scope=Scope.INFERENCE, beta=None))]
Stages = Annotated[list[Lifecycle] | None, Query(alias="lifecycle[]")]


@router.get("")
async def find(
    caller: Inference,
    svc: ServicesDep,
    after_id: str | None = None,
    before_id: str | None = None,
    limit: int | None = None,
    lifecycle: Stages = None,
) -> Response:
    """List the models that the workspace may use, newest first; retired ones if asked for."""
    size = check_limit(limit, DEFAULT_PAGE, MAX_PAGE)
    if after_id and before_id:
        raise InvalidRequest("before_id: cannot be sent together with after_id")
    stages = set(lifecycle or ("active", "deprecated"))
    entries = [
        entry
        for entry in svc.models.entries
        if entry.lifecycle in stages and _may(svc, caller, entry.id)
    ]
    if before_id:
        end = _place(entries, "before_id", before_id)
        page = entries[max(0, end - size) : end]
        more = end > size
    else:
        start = _place(entries, "after_id", after_id) + 1 if after_id else 0
        page = entries[start : start + size]
        more = start + size < len(entries)
    return reply(
        {
            "data": [entry.info() for entry in page],
            "has_more": more,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
    )


@router.get("/{model_id:path}")
async def retrieve(caller: Inference, svc: ServicesDep, model_id: str) -> Response:
    """Return a model by its id or an alias."""
    found = svc.models.find(model_id)
    if found is None or not _may(svc, caller, found.id):
        raise NotFound(
            f"nothing is known of a model {model_id[:80]!r}; the provider may serve it all the same"
        )
    return reply(found.info())


def _may(svc: Services, caller: Principal, model_id: str) -> bool:
    allowed = svc.meter.allowed(caller.workspace_id)
    return allowed is None or allowed.permits(model_id, svc.models)


def _place(entries: list[ModelEntry], name: str, model_id: str) -> int:
    for index, entry in enumerate(entries):
        if entry.id == model_id:
            return index
    raise InvalidRequest(f"{name}: no model {model_id[:80]!r} in this list")
