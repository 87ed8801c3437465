"""Environments, what a request makes of their configuration, and their workers' keys."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Row, select

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import ENVIRONMENT
from intramuros.control.catalog.service import Resource
from intramuros.control.identity import audit, credentials
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import CredentialKind
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import credentials as credentials_table
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound
from intramuros.kernel.timing import from_micros, rfc3339, to_micros
from intramuros.protocol.resources.base import merge_metadata
from intramuros.protocol.resources.environments import (
    PACKAGE_MANAGERS,
    Cloud,
    EnvironmentCreate,
    EnvironmentUpdate,
    Limited,
    Packages,
    SelfHosted,
    Unrestricted,
)

Config = dict[str, Any]

_NEW_NETWORKING: Final = {"type": "unrestricted"}
_NEW_LIMITED: Final = {
    "type": "limited",
    "allowed_hosts": [],
    "allow_mcp_servers": False,
    "allow_package_managers": False,
}
_NEW_PACKAGES: Final = {"type": "packages", **{manager: [] for manager in PACKAGE_MANAGERS}}


def create(tx: Tx, actor: Actor, request: EnvironmentCreate) -> Resource:
    """Store a new environment.

    Raises:
        InvalidRequest: the configuration contradicts itself.
    """
    return service.create(tx, actor, ENVIRONMENT, configure(request))


def update(tx: Tx, actor: Actor, environment_id: str, request: EnvironmentUpdate) -> Resource:
    """Change an environment; what was not sent stays.

    Raises:
        NotFound: no such environment here.
        InvalidRequest: archived, of another type, or the result contradicts itself.
    """
    current = service.get(tx, actor.workspace_id, ENVIRONMENT, environment_id)
    service.check_active(ENVIRONMENT, current, code="environment_archived")
    return service.change(tx, actor, ENVIRONMENT, current, amend(current.body, request))


def delete(tx: Tx, actor: Actor, environment_id: str) -> None:
    """Delete an environment that no session refers to; its keys stop working (contract 8.12).

    Raises:
        NotFound: no such environment here.
        Conflict: sessions refer to it.
    """
    current = service.get(tx, actor.workspace_id, ENVIRONMENT, environment_id)
    used = select(sessions.c.id).where(sessions.c.environment_id == current.id).limit(1)
    if tx.scalar(used) is not None:
        raise Conflict(f"environment {current.id!r} has sessions; delete them first or archive it")
    credentials.revoke_environment(tx, current.id, to_micros(actor.clock.now()))
    service.remove(tx, actor, current)


def create_key(tx: Tx, actor: Actor, environment_id: str, name: str) -> tuple[Config, str]:
    """Make a worker's key and return it as shown, and its secret, which is not kept.

    Raises:
        NotFound: no such environment here.
        InvalidRequest: archived, or a cloud environment, which has no workers of the customer's.
    """
    environment = service.get(tx, actor.workspace_id, ENVIRONMENT, environment_id)
    service.check_active(ENVIRONMENT, environment, code="environment_archived")
    if environment.body["config"]["type"] != "self_hosted":
        raise InvalidRequest(
            f"environment {environment_id!r} is not self-hosted: no worker polls it"
        )
    key_id, secret = credentials.mint(
        tx,
        actor.ids,
        actor.clock,
        kind=CredentialKind.ENVIRONMENT_KEY,
        workspace_id=actor.workspace_id,
        name=name,
        environment_id=environment_id,
    )
    _audit_key(tx, actor, "environment_key.create", environment_id, key_id)
    return _key(tx, environment_id, key_id), secret


def list_keys(tx: Tx, workspace_id: str, environment_id: str) -> list[Config]:
    """Return an environment's keys, newest first, revoked ones included.

    Raises:
        NotFound: no such environment here.
    """
    service.get(tx, workspace_id, ENVIRONMENT, environment_id)
    table = credentials_table.c
    rows = tx.execute(
        select(credentials_table)
        .where(
            table.environment_id == environment_id,
            table.kind == CredentialKind.ENVIRONMENT_KEY.value,
        )
        .order_by(table.created_us.desc(), table.id.desc())
    )
    return [_present_key(row) for row in rows]


def revoke_key(tx: Tx, actor: Actor, environment_id: str, key_id: str) -> Config:
    """Revoke a key, at once (contract 2.3), and return it; a second time changes nothing.

    Raises:
        NotFound: no such environment or key here.
    """
    service.get(tx, actor.workspace_id, ENVIRONMENT, environment_id)
    shown = _key(tx, environment_id, key_id)
    if shown["revoked_at"] is None:
        _audit_key(tx, actor, "environment_key.revoke", environment_id, key_id)
        credentials.revoke(tx, key_id, to_micros(actor.clock.now()))
    return _key(tx, environment_id, key_id)


def present(environment: Resource) -> Config:
    """Return the environment as answers show it."""
    return {
        "id": environment.id,
        "type": "environment",
        **environment.body,
        "created_at": rfc3339(from_micros(environment.created_us)),
        "updated_at": rfc3339(from_micros(environment.updated_us)),
        "archived_at": None
        if environment.archived_us is None
        else rfc3339(from_micros(environment.archived_us)),
    }


def configure(request: EnvironmentCreate) -> Config:
    """Return the configuration of a new environment, with every default resolved. Pure.

    Raises:
        InvalidRequest: it contradicts itself.
    """
    return {
        "name": request.name,
        "description": request.description,
        "config": _config(request.config or Cloud(type="cloud"), None),
        "metadata": dict(request.metadata or {}),
        "scope": _scope(request.scope),
    }


def amend(stored: Mapping[str, Any], request: EnvironmentUpdate) -> Config:
    """Return the configuration after an update. Pure.

    Raises:
        InvalidRequest: another type, or the result contradicts itself.
    """
    changed: Config = dict(stored)
    if request.name is not None:
        changed["name"] = request.name
    if request.sent("description"):
        changed["description"] = request.description
    if request.config is not None:
        changed["config"] = _config(request.config, stored["config"])
    if request.scope is not None:
        changed["scope"] = _scope(request.scope)
    # Here, unlike elsewhere, an empty text deletes a key too (contract 4.8).
    patch = {key: value or None for key, value in (request.metadata or {}).items()}
    try:
        changed["metadata"] = merge_metadata(stored["metadata"], patch)
    except ValueError as error:
        raise InvalidRequest(f"metadata: {error}") from error
    return changed


def _config(sent: Cloud | SelfHosted, stored: Mapping[str, Any] | None) -> Config:
    if stored is not None and stored["type"] != sent.type:
        raise InvalidRequest(
            f"config.type: is {stored['type']!r} for good and cannot become {sent.type!r}",
            code="invalid_config_type_change",
        )
    if isinstance(sent, SelfHosted):
        return {"type": "self_hosted"}
    networking = _networking(sent.networking, stored and stored["networking"])
    packages = _packages(sent.packages, stored and stored["packages"])
    listed = any(packages[manager] for manager in PACKAGE_MANAGERS)
    if listed and networking["type"] == "limited" and not networking["allow_package_managers"]:
        raise InvalidRequest(
            "config.packages: limited networking needs networking.allow_package_managers: true"
        )
    return {"type": "cloud", "networking": networking, "packages": packages}


def _networking(sent: Unrestricted | Limited | None, stored: Mapping[str, Any] | None) -> Config:
    if sent is None:
        return dict(stored or _NEW_NETWORKING)
    if isinstance(sent, Unrestricted):
        return {"type": "unrestricted"}
    base = stored if stored is not None and stored["type"] == "limited" else _NEW_LIMITED
    return {**base, **sent.model_dump(exclude_none=True)}


def _packages(sent: Packages | None, stored: Mapping[str, Any] | None) -> Config:
    changes = {} if sent is None else sent.model_dump(exclude_none=True)
    return {**(stored or _NEW_PACKAGES), **changes}


def _scope(scope: str | None) -> str:
    if scope == "account":
        raise InvalidRequest("scope: this organization supports 'organization' only")
    return "organization"


def _key(tx: Tx, environment_id: str, key_id: str) -> Config:
    table = credentials_table.c
    row = tx.execute(
        select(credentials_table).where(
            table.id == key_id,
            table.environment_id == environment_id,
            table.kind == CredentialKind.ENVIRONMENT_KEY.value,
        )
    ).first()
    if row is None:
        raise NotFound(f"no key {key_id[:80]!r} of environment {environment_id!r}")
    return _present_key(row)


def _present_key(row: Row[Any]) -> Config:
    revoked_us = row.revoked_us
    return {
        "id": row.id,
        "type": "environment_key",
        "environment_id": row.environment_id,
        "name": row.name,
        "created_at": rfc3339(from_micros(row.created_us)),
        "revoked_at": None if revoked_us is None else rfc3339(from_micros(revoked_us)),
    }


def _audit_key(tx: Tx, actor: Actor, kind: str, environment_id: str, key_id: str) -> None:
    audit.record(
        tx,
        actor.clock,
        kind,
        workspace_id=actor.workspace_id,
        fields={"id": key_id, "by": actor.by, "environment_id": environment_id},
    )
