"""Goes on without the master key: what it sealed is given up, and everything else is kept.

Lost are secrets alone. Vault credentials are archived, so that whoever set them up sees what to set
up again; webhook endpoints get another secret and are disabled until somebody has fetched it; trace
destinations lose their headers and are disabled; tokens of repositories go; and the server makes
itself new keys, so that edges need a new copy of ``ticket-key.pem`` and tunnels new tokens.
"""

import os
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
from sqlalchemy import delete, select

from intramuros.control.catalog import vaults
from intramuros.control.identity import audit, bootstrap
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.metering_tables import telemetry_destinations
from intramuros.control.store.migrate import check_newest
from intramuros.control.store.rekey import SEALED, KeyFiles, opens
from intramuros.control.store.repository_tables import repository_tokens
from intramuros.control.store.secrets import Sealer
from intramuros.control.store.tables import resources, secrets, vault_secrets
from intramuros.control.store.webhook_tables import webhook_endpoints
from intramuros.control.tracing import destinations
from intramuros.control.upkeep.attached import Place, fingerprint
from intramuros.control.webhooks import endpoints
from intramuros.control.webhooks.addresses import Policy
from intramuros.control.webhooks.endpoints import Endpoints
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import SystemClock

BY: Final = "intramuros db replace-lost-key"
REASON: Final = "auto-disabled: the signing secret was lost; regenerate it and enable the endpoint"


@dataclass(frozen=True)
class Replaced:
    """The new key's fingerprint, and how much of each kind was given up."""

    master_key: str
    vault_credentials: int
    webhook_endpoints: int
    trace_destinations: int
    repository_tokens: int
    own_keys: int


def replace_lost_key(place: Place) -> Replaced:
    """Put a new master key into the place of one that is lost, all or nothing.

    A key that lies there and opens nothing becomes the new one.

    Raises:
        OperatorError: a server is running, or the key that is there opens something.
    """
    if place.file is not None and not place.file.exists():
        raise OperatorError(f"there is no database {place.file}", "name the server's --data-dir")
    files = KeyFiles(place.master_key, alone=True)
    try:
        successor = files.successor()
        sealer = files.current()
        db = Database.open(place.url, statement_s=0)
        try:
            return anyio.run(db.write, partial(_replace, tried=(sealer, successor), sealer=sealer))
        finally:
            db.close()
    finally:
        files.release()


def _replace(tx: Tx, tried: tuple[Sealer | None, ...], sealer: Sealer) -> Replaced:
    check_newest(tx.connection)
    _check_lost(tx, [one for one in tried if one is not None])
    clock = SystemClock()
    name = fingerprint(sealer)
    audit.record(
        tx,
        clock,
        "master_key.replace_lost",
        workspace_id=None,
        fields={"by": BY, "fingerprint": name},
    )
    ids = IdFactory(clock, os.urandom)
    operator = Actor(clock, ids, bootstrap.default_workspace(tx), BY)
    return Replaced(
        master_key=name,
        vault_credentials=_archive_credentials(tx, operator),
        webhook_endpoints=_renew_endpoints(tx, operator, sealer),
        trace_destinations=_forget_headers(tx, operator, sealer),
        repository_tokens=tx.execute(delete(repository_tokens)).rowcount,
        own_keys=tx.execute(delete(secrets)).rowcount,
    )


def _check_lost(tx: Tx, sealers: list[Sealer]) -> None:
    for sealed in SEALED:
        for row_id, value in tx.execute(select(sealed.id, sealed.value)).all():
            if any(opens(sealer, sealed.name(row_id), value) for sealer in sealers):
                raise OperatorError(
                    "the master key is not lost: it opens what is there",
                    "to have another one run `intramuros db rotate-key`",
                )


def _archive_credentials(tx: Tx, operator: Actor) -> int:
    rows = tx.execute(
        select(vault_secrets.c.credential_id, vault_secrets.c.vault_id, resources.c.workspace_id)
        .join(resources, resources.c.id == vault_secrets.c.credential_id)
        .order_by(vault_secrets.c.credential_id)
    ).all()
    for row in rows:
        actor = Actor(operator.clock, operator.ids, row.workspace_id, BY)
        vaults.archive_credential(tx, actor, row.vault_id, row.credential_id)
    return len(rows)


def _renew_endpoints(tx: Tx, operator: Actor, sealer: Sealer) -> int:
    service = Endpoints(sealer, os.urandom, Policy())
    rows = tx.execute(select(webhook_endpoints).order_by(webhook_endpoints.c.id)).all()
    for row in rows:
        service.renew_secret(tx, operator, row.workspace_id, row.id)
        endpoints.disable(tx, operator.clock, row, REASON)
    return len(rows)


def _forget_headers(tx: Tx, operator: Actor, sealer: Sealer) -> int:
    rows = tx.execute(select(telemetry_destinations).order_by(telemetry_destinations.c.id)).all()
    rules = destinations.Rules(sealer)
    for row in rows:
        destinations.forget_headers(tx, operator, rules, row)
    return len(rows)
