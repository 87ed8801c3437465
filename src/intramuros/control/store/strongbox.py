"""Secrets of vault credentials, sealed in an envelope.

Each record has a data key of its own, which seals the secret; the master key seals only data keys,
so that another master key means new envelopes and leaves the secrets as they lie. A row is there
while its credential is active: taking it out wipes the secret and frees its key (R047).
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, delete, func, insert, select, update

from intramuros.control.store.db import Tx
from intramuros.control.store.secrets import KEY_BYTES, Sealer
from intramuros.control.store.tables import vault_secrets


@dataclass(frozen=True)
class Lock:
    """A credential's right to be refreshed by one process; ``epoch`` fences the others out."""

    credential_id: str
    epoch: int


class Strongbox:
    """Puts secrets into the database and takes them out.

    Args:
        sealer: of the master key.
        randbytes: where data keys and nonces come from.
    """

    def __init__(self, sealer: Sealer, randbytes: Callable[[int], bytes]) -> None:
        self._sealer = sealer
        self._randbytes = randbytes

    def put(
        self, tx: Tx, credential_id: str, vault_id: str, key: str, secret: Mapping[str, str]
    ) -> None:
        """Store a new credential's secret under the key that it answers to."""
        tx.execute(
            insert(vault_secrets).values(
                credential_id=credential_id,
                vault_id=vault_id,
                match_key=key,
                epoch=0,
                stopped=False,
                failing=False,
                **self._seal(credential_id, secret),
            )
        )

    def replace(self, tx: Tx, credential_id: str, secret: Mapping[str, str]) -> None:
        """Store another secret; a refresh that is under way or was stopped starts over."""
        tx.execute(
            update(vault_secrets)
            .where(vault_secrets.c.credential_id == credential_id)
            .values(
                epoch=vault_secrets.c.epoch + 1,
                locked_us=None,
                stopped=False,
                failing=False,
                **self._seal(credential_id, secret),
            )
        )

    def open(self, row: Row[Any]) -> dict[str, str]:
        """Return the secret of a row.

        Raises:
            OperatorError: it was sealed by another master key, or is damaged.
        """
        name = _name(row.credential_id)
        data_key = self._sealer.open(key_name(row.credential_id), row.sealed_key)
        opened: dict[str, str] = json.loads(
            Sealer(data_key, self._randbytes).open(name, row.sealed)
        )
        return opened

    def _seal(self, credential_id: str, secret: Mapping[str, str]) -> dict[str, bytes]:
        name, data_key = _name(credential_id), self._randbytes(KEY_BYTES)
        text = json.dumps(dict(secret)).encode()
        return {
            "sealed_key": self._sealer.seal(key_name(credential_id), data_key),
            "sealed": Sealer(data_key, self._randbytes).seal(name, text),
        }


def key_name(credential_id: str) -> str:
    """Return the name that a record's data key is sealed under."""
    return f"{_name(credential_id)}/key"


def find(tx: Tx, credential_id: str) -> Row[Any] | None:
    """Return the row of an active credential, or None."""
    return tx.execute(
        select(vault_secrets).where(vault_secrets.c.credential_id == credential_id)
    ).first()


def match(tx: Tx, vault_id: str, key: str) -> str | None:
    """Return the active credential of a vault that answers to the key, or None."""
    found: str | None = tx.scalar(
        select(vault_secrets.c.credential_id).where(
            vault_secrets.c.vault_id == vault_id, vault_secrets.c.match_key == key
        )
    )
    return found


def count(tx: Tx, vault_id: str) -> int:
    """Return how many active credentials a vault holds."""
    return int(
        tx.scalar(
            select(func.count())
            .select_from(vault_secrets)
            .where(vault_secrets.c.vault_id == vault_id)
        )
        or 0
    )


def wipe(tx: Tx, credential_ids: Iterable[str]) -> None:
    """Take secrets out for good."""
    tx.execute(delete(vault_secrets).where(vault_secrets.c.credential_id.in_(list(credential_ids))))


def lock(tx: Tx, credential_id: str, now_us: int, ttl_us: int) -> Lock | None:
    """Take the right to refresh a credential, or None while another process has it.

    Args:
        ttl_us: how long the right lasts if its holder dies, microseconds.
    """
    row = find(tx, credential_id)
    if row is None or (row.locked_us is not None and row.locked_us > now_us):
        return None
    tx.execute(
        update(vault_secrets)
        .where(vault_secrets.c.credential_id == credential_id)
        .values(epoch=row.epoch + 1, locked_us=now_us + ttl_us)
    )
    return Lock(credential_id, row.epoch + 1)


def holds(tx: Tx, held: Lock) -> bool:
    """Tell whether the right is still ours: not run out and taken, nor the secret replaced."""
    epoch = tx.scalar(
        select(vault_secrets.c.epoch).where(vault_secrets.c.credential_id == held.credential_id)
    )
    return bool(epoch == held.epoch)


def give_up(tx: Tx, held: Lock, *, stopped: bool) -> bool:
    """Give the right back after a failure; ``stopped`` until the secret is replaced (Q10).

    Returns:
        True if this failure begins an episode of failures.
    """
    row = find(tx, held.credential_id)
    if row is None or row.epoch != held.epoch:
        return False
    tx.execute(
        update(vault_secrets)
        .where(vault_secrets.c.credential_id == held.credential_id)
        .values(locked_us=None, failing=True, stopped=stopped)
    )
    return not row.failing


def _name(credential_id: str) -> str:
    return f"{_PREFIX}{credential_id}"


_PREFIX: Final = "vault/"
