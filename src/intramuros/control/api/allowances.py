"""Our own ``/x/workspaces/{workspace_id}/models``: which models a workspace may use."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import OrgAdmin, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.replies import reply
from intramuros.control.catalog import allowances
from intramuros.control.store.db import Tx
from intramuros.protocol.resources.allowances import ModelsPut

router = APIRouter(prefix="/x/workspaces/{workspace_id}/models", tags=["models"])

PutBody = Annotated[ModelsPut, Depends(Body(ModelsPut))]


@router.get("")
async def retrieve(_caller: OrgAdmin, svc: ServicesDep, workspace_id: str) -> Response:
    """Return the models that a workspace may use."""
    return reply(await svc.db.read(lambda tx: allowances.get(tx, workspace_id)))


@router.put("")
async def replace(caller: OrgAdmin, svc: ServicesDep, workspace_id: str, body: PutBody) -> Response:
    """Say which models a workspace may use; its next request is held to it."""
    actor = actor_of(svc, caller)

    def put(tx: Tx) -> dict[str, object]:
        shown = allowances.put(tx, actor, workspace_id, body.models)
        svc.meter.permitted(tx)
        return shown

    return reply(await svc.db.write(put))
