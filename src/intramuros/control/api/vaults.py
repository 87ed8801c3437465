"""``/v1/vaults`` and the credentials in them."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from intramuros.control.api.access import Developer, ServicesDep, actor_of
from intramuros.control.api.bodies import Body
from intramuros.control.api.lists import PagingDep, list_resources
from intramuros.control.api.replies import reply
from intramuros.control.catalog import service, vaults
from intramuros.control.catalog.kinds import VAULT, VAULT_CREDENTIAL
from intramuros.protocol.resources.vaults import (
    CredentialCreate,
    CredentialUpdate,
    VaultCreate,
    VaultUpdate,
)

router = APIRouter(prefix="/v1/vaults", tags=["vaults"])

CreateBody = Annotated[VaultCreate, Depends(Body(VaultCreate))]
UpdateBody = Annotated[VaultUpdate, Depends(Body(VaultUpdate))]
CredentialBody = Annotated[CredentialCreate, Depends(Body(CredentialCreate))]
CredentialChange = Annotated[CredentialUpdate, Depends(Body(CredentialUpdate))]


@router.post("")
async def create(caller: Developer, svc: ServicesDep, body: CreateBody) -> Response:
    """Create a vault."""
    actor = actor_of(svc, caller)
    made = await svc.db.write(lambda tx: vaults.create(tx, actor, body))
    return reply(vaults.present(made))


@router.get("")
async def find(caller: Developer, svc: ServicesDep, paging: PagingDep) -> Response:
    """List vaults, newest first."""
    return await list_resources(svc, caller, VAULT, vaults.present, paging)


@router.get("/{vault_id}")
async def retrieve(caller: Developer, svc: ServicesDep, vault_id: str) -> Response:
    """Return a vault."""
    found = await svc.db.glance(lambda tx: service.get(tx, caller.workspace_id, VAULT, vault_id))
    return reply(vaults.present(found))


@router.post("/{vault_id}")
async def update(caller: Developer, svc: ServicesDep, vault_id: str, body: UpdateBody) -> Response:
    """Change a vault."""
    actor = actor_of(svc, caller)
    changed = await svc.db.write(lambda tx: vaults.update(tx, actor, vault_id, body))
    return reply(vaults.present(changed))


@router.delete("/{vault_id}")
async def delete(caller: Developer, svc: ServicesDep, vault_id: str) -> Response:
    """Delete a vault with its credentials for good."""
    actor = actor_of(svc, caller)
    await svc.db.write(lambda tx: vaults.delete(tx, actor, vault_id))
    return reply({"id": vault_id, "type": "vault_deleted"})


@router.post("/{vault_id}/archive")
async def archive(caller: Developer, svc: ServicesDep, vault_id: str) -> Response:
    """Archive a vault with its credentials and wipe their secrets."""
    actor = actor_of(svc, caller)
    archived = await svc.db.write(lambda tx: vaults.archive(tx, actor, vault_id))
    return reply(vaults.present(archived))


@router.post("/{vault_id}/credentials")
async def create_credential(
    caller: Developer, svc: ServicesDep, vault_id: str, body: CredentialBody
) -> Response:
    """Store a credential; its secret is never shown again."""
    actor = actor_of(svc, caller)
    made = await svc.db.write(lambda tx: svc.credentials.create(tx, actor, vault_id, body))
    return reply(vaults.present_credential(made))


@router.get("/{vault_id}/credentials")
async def find_credentials(
    caller: Developer, svc: ServicesDep, vault_id: str, paging: PagingDep
) -> Response:
    """List a vault's credentials, newest first."""
    await svc.db.read(lambda tx: service.get(tx, caller.workspace_id, VAULT, vault_id))
    return await list_resources(
        svc, caller, VAULT_CREDENTIAL, vaults.present_credential, paging, {"parent_id": vault_id}
    )


@router.get("/{vault_id}/credentials/{credential_id}")
async def retrieve_credential(
    caller: Developer, svc: ServicesDep, vault_id: str, credential_id: str
) -> Response:
    """Return a credential, without its secret."""
    found = await svc.db.read(
        lambda tx: vaults.get(tx, caller.workspace_id, vault_id, credential_id)
    )
    return reply(vaults.present_credential(found))


@router.post("/{vault_id}/credentials/{credential_id}")
async def update_credential(
    caller: Developer,
    svc: ServicesDep,
    vault_id: str,
    credential_id: str,
    body: CredentialChange,
) -> Response:
    """Change a credential."""
    actor = actor_of(svc, caller)
    changed = await svc.db.write(
        lambda tx: svc.credentials.update(tx, actor, vault_id, credential_id, body)
    )
    return reply(vaults.present_credential(changed))


@router.delete("/{vault_id}/credentials/{credential_id}")
async def delete_credential(
    caller: Developer, svc: ServicesDep, vault_id: str, credential_id: str
) -> Response:
    """Delete a credential for good."""
    actor = actor_of(svc, caller)
    await svc.db.write(lambda tx: vaults.delete_credential(tx, actor, vault_id, credential_id))
    return reply({"id": credential_id, "type": "vault_credential_deleted"})


@router.post("/{vault_id}/credentials/{credential_id}/mcp_oauth_validate")
async def validate_credential(
    caller: Developer, svc: ServicesDep, vault_id: str, credential_id: str
) -> Response:
    """Try an OAuth credential on its server; a bad one is an answer, not an error."""
    return reply(await svc.validator.validate(caller.workspace_id, vault_id, credential_id))


@router.post("/{vault_id}/credentials/{credential_id}/archive")
async def archive_credential(
    caller: Developer, svc: ServicesDep, vault_id: str, credential_id: str
) -> Response:
    """Archive a credential: wipe its secret and free its key."""
    actor = actor_of(svc, caller)
    archived = await svc.db.write(
        lambda tx: vaults.archive_credential(tx, actor, vault_id, credential_id)
    )
    return reply(vaults.present_credential(archived))
