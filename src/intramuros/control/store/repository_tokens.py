"""Tokens of repositories, each sealed in an envelope of its own as the secrets of vaults are."""

from collections.abc import Callable
from typing import Final

from sqlalchemy import delete, insert, select, update

from intramuros.control.store.db import Tx
from intramuros.control.store.repository_tables import repository_tokens
from intramuros.control.store.secrets import KEY_BYTES, Sealer

_PREFIX: Final = "repository/"


class Tokens:
    """Puts tokens into the database and takes them out.

    Args:
        sealer: of the master key.
        randbytes: where data keys and nonces come from.
    """

    def __init__(self, sealer: Sealer, randbytes: Callable[[int], bytes]) -> None:
        self._sealer = sealer
        self._randbytes = randbytes

    def put(
        self,
        tx: Tx,
        token_id: str,
        token: str,
        *,
        session_id: str | None = None,
        deployment_id: str | None = None,
    ) -> None:
        """Store a token of a session or of a deployment, in place of an earlier one."""
        sealed = self._seal(token_id, token)
        changed = tx.execute(
            update(repository_tokens).where(repository_tokens.c.id == token_id).values(**sealed)
        )
        if not changed.rowcount:
            tx.execute(
                insert(repository_tokens).values(
                    id=token_id, session_id=session_id, deployment_id=deployment_id, **sealed
                )
            )

    def open(self, tx: Tx, token_id: str) -> str | None:
        """Return a token, or None if there is none.

        Raises:
            OperatorError: it was sealed by another master key, or is damaged.
        """
        row = tx.execute(
            select(repository_tokens).where(repository_tokens.c.id == token_id)
        ).first()
        if row is None:
            return None
        data_key = self._sealer.open(key_name(token_id), row.sealed_key)
        return Sealer(data_key, self._randbytes).open(_name(token_id), row.sealed).decode()

    def _seal(self, token_id: str, token: str) -> dict[str, bytes]:
        data_key = self._randbytes(KEY_BYTES)
        return {
            "sealed_key": self._sealer.seal(key_name(token_id), data_key),
            "sealed": Sealer(data_key, self._randbytes).seal(_name(token_id), token.encode()),
        }


def wipe_session(tx: Tx, session_id: str) -> None:
    """Take the tokens of a session out for good."""
    tx.execute(delete(repository_tokens).where(repository_tokens.c.session_id == session_id))


def wipe_deployment(tx: Tx, deployment_id: str) -> None:
    """Take the tokens of a deployment out for good."""
    tx.execute(delete(repository_tokens).where(repository_tokens.c.deployment_id == deployment_id))


def key_name(token_id: str) -> str:
    """Return the name that a token's data key is sealed under."""
    return f"{_name(token_id)}/key"


def _name(token_id: str) -> str:
    return f"{_PREFIX}{token_id}"
