"""The control plane's audit chain: records sealed in the caller's own transaction.

Whatever a transaction is about to do is recorded in it, so that the act and its record are durable
together or not at all. Fields hold ids, digests and sizes, never content and never a secret.
"""

from collections.abc import Iterator, Mapping

from sqlalchemy import insert, select

from intramuros.control.identity import compliance, notices, origin
from intramuros.control.identity.activity_types import TYPES
from intramuros.control.store.db import Tx
from intramuros.control.store.prepared import Prepared
from intramuros.control.store.tables import audit
from intramuros.kernel.timing import Clock, rfc3339, to_micros
from intramuros.protocol.audit import AuditRecord, Head, seal


def record(
    tx: Tx,
    clock: Clock,
    kind: str,
    *,
    workspace_id: str | None,
    session_id: str | None = None,
    fields: Mapping[str, object],
) -> Head:
    """Append one record and return the new end of the chain.

    Webhooks are told of the act in the same transaction, if they tell of acts of its kind.

    Args:
        kind: a dotted constant, such as ``agent.create``.
        workspace_id: where it happens; None for acts on the whole installation.
        session_id: the session it belongs to, if any.
        fields: JSON values; the workspace and the session are added, and to what may be an
            activity of the compliance feed the request that is being served.
    """
    now = clock.now()
    body = {**fields, "workspace_id": workspace_id}
    # Not to the session's own traffic: it is the most by far, and its log says more of it.
    request = origin.current() if kind in TYPES else None
    if request is not None:
        body["origin"] = request.fields()
    if session_id is not None:
        body["session_id"] = session_id
    at_us = to_micros(now)
    tx.take_turn()
    line, head = seal(read_head(tx), AuditRecord(rfc3339(now), kind, body))
    tx.later(
        _APPEND,
        {
            "seq": head.seq,
            "at_us": at_us,
            "kind": kind,
            "workspace_id": workspace_id,
            "session_id": session_id,
            "line": line,
            "hash": head.hash,
        },
    )
    notices.pass_on(tx, clock, kind, workspace_id=workspace_id, fields=body, source=head.hash)
    compliance.capture(tx, head.seq, at_us, kind, body)
    return head


def read_head(tx: Tx) -> Head:
    """Return the end of the chain as this transaction sees it."""
    row = tx.run(_LAST).first()
    return Head(row.seq, row.hash) if row else Head()


def read_lines(tx: Tx) -> Iterator[str]:
    """Return every record's line, oldest first, for verification and export."""
    return iter(tx.execute(select(audit.c.line).order_by(audit.c.seq)).scalars())


_APPEND = Prepared(insert(audit))
_LAST = Prepared(select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1))
