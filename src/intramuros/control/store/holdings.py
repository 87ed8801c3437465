"""Which blobs are in use, by what, and how much room they take.

A blob's row is written in the transaction that makes it reachable and removed in the one that makes
it unreachable; the bytes go afterwards. A blob without a row is nobody's, and is swept.
"""

from collections.abc import Collection
from typing import Final

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, insert, select, update

from intramuros.control.store.blobs import Blob
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import blobs, storage
from intramuros.kernel.errors import InvalidRequest

_BATCH: Final = 100


def used(tx: Tx) -> int:
    """Return how many bytes all workspaces hold together."""
    return int(tx.scalar(select(func.coalesce(func.sum(storage.c.used_bytes), 0))) or 0)


def check_quota(tx: Tx, more_bytes: int, quota_bytes: int) -> None:
    """Refuse what does not fit any more (contract-2 R181).

    Raises:
        InvalidRequest: with the code ``storage_quota_exceeded``.
    """
    tx.take_turn()
    if used(tx) + more_bytes > quota_bytes:
        raise InvalidRequest(
            f"storage is full: this does not fit into the {quota_bytes} bytes of this server; "
            "delete files or skills, or raise its quota",
            code="storage_quota_exceeded",
        )


def take(
    tx: Tx,
    workspace_id: str,
    owner_id: str,
    blob: Blob,
    *,
    expires_us: int | None = None,
    counted: bool = True,
) -> None:
    """Note that ``owner_id`` (a file, a skill version) holds a blob.

    Args:
        expires_us: when it lets go of it, microseconds since the epoch; None for never.
        counted: whether the blob takes room; copies share theirs (contract-2 R184).
    """
    tx.execute(
        insert(blobs).values(
            key=blob.key,
            workspace_id=workspace_id,
            owner_id=owner_id,
            size_bytes=blob.size_bytes,
            sha256=blob.sha256,
            expires_us=expires_us,
            gone=False,
            counted=counted,
        )
    )
    if counted:
        _grow(tx, workspace_id, blob.size_bytes)


def of(tx: Tx, owner_id: str) -> Blob | None:
    """Return the blob that a resource holds, or None when its bytes are gone."""
    row = tx.execute(
        select(blobs).where(blobs.c.owner_id == owner_id, blobs.c.gone.is_(False))
    ).first()
    return None if row is None else Blob(row.key, row.size_bytes, row.sha256)


def drop(tx: Tx, owner_ids: Collection[str]) -> list[str]:
    """Forget what these resources hold and return the keys whose bytes may go."""
    keys = []
    for row in tx.execute(select(blobs).where(blobs.c.owner_id.in_(list(owner_ids)))).all():
        if not row.gone and row.counted:
            _grow(tx, row.workspace_id, -row.size_bytes)
        keys.append(row.key)
    tx.execute(sql_delete(blobs).where(blobs.c.owner_id.in_(list(owner_ids))))
    return unknown(tx, keys)


def expire(tx: Tx, now_us: int) -> list[str]:
    """Mark blobs whose time is over as gone, some at once; returns the keys whose bytes may go."""
    rows = tx.execute(
        select(blobs).where(blobs.c.expires_us <= now_us, blobs.c.gone.is_(False)).limit(_BATCH)
    ).all()
    for row in rows:
        if row.counted:
            _grow(tx, row.workspace_id, -row.size_bytes)
        mine = (blobs.c.key == row.key, blobs.c.owner_id == row.owner_id)
        tx.execute(update(blobs).where(*mine).values(gone=True))
    return unknown(tx, [row.key for row in rows])


def any_expired(tx: Tx, now_us: int) -> bool:
    """Tell whether :func:`expire` would find something."""
    found = tx.scalar(
        select(blobs.c.key).where(blobs.c.expires_us <= now_us, blobs.c.gone.is_(False)).limit(1)
    )
    return found is not None


def expired_before(tx: Tx, before_us: int) -> list[tuple[str, str]]:
    """Return workspace and owner of blobs that expired before a time; some at once."""
    rows = tx.execute(
        select(blobs.c.workspace_id, blobs.c.owner_id)
        .where(blobs.c.expires_us <= before_us, blobs.c.gone.is_(True))
        .limit(_BATCH)
    ).all()
    return [(row.workspace_id, row.owner_id) for row in rows]


def unknown(tx: Tx, keys: Collection[str]) -> list[str]:
    """Return those keys that nothing holds."""
    held = tx.execute(
        select(blobs.c.key).where(blobs.c.key.in_(list(keys)), blobs.c.gone.is_(False))
    ).scalars()
    return sorted(set(keys) - set(held))


def _grow(tx: Tx, workspace_id: str, by_bytes: int) -> None:
    tx.take_turn()
    changed = tx.execute(
        update(storage)
        .where(storage.c.workspace_id == workspace_id)
        .values(used_bytes=storage.c.used_bytes + by_bytes)
    )
    if not changed.rowcount:
        tx.execute(insert(storage).values(workspace_id=workspace_id, used_bytes=by_bytes))
