"""Results of MCP servers that are too long for the model, kept for the session's sandbox.

The text is durable in the blob store before the model is told of it; the row that tells it and the
one that holds the blob are of one transaction. It is counted against no quota, bounded in size and
number, and goes with its session. Where a thread has no sandbox tools nothing is kept.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from sqlalchemy import select

from intramuros.control.mcp.base import McpResult
from intramuros.control.session.calls import CallKind
from intramuros.control.session.outcome import Spilled
from intramuros.control.session.view import View
from intramuros.control.store import holdings
from intramuros.control.store.blobs import CHUNK_BYTES, Blob, Blobs, new_key
from intramuros.control.store.db import Tx
from intramuros.control.store.records import Record
from intramuros.control.store.tables import blobs
from intramuros.kernel.errors import NotFound, Unavailable
from intramuros.kernel.telemetry import logger
from intramuros.protocol.spills import MAX_FILE_BYTES, MAX_TEXT_CHARS, place, preview

log = logger("spills")

DEFAULT_BYTES: Final = 8 * 1024 * 1024
# Of one session; the oldest go first. A model that has not looked by then will hardly do so.
MAX_KEPT: Final = 32


class Spills:
    """Keeps long results.

    Args:
        max_bytes: of one result, as UTF-8; 0 keeps nothing.
    """

    def __init__(self, store: Blobs, max_bytes: int = DEFAULT_BYTES) -> None:
        self._store = store
        self._max_bytes = min(max_bytes, MAX_FILE_BYTES)

    async def keep(self, view: View, use_id: str, answer: McpResult) -> Spilled | None:
        """Store the text of a result that is too long for the model.

        Returns:
            None if it is not, or cannot be kept; it is then cut.
        """
        text = "\n".join(str(b["text"]) for b in answer.content if b["type"] == "text")
        if len(text) <= MAX_TEXT_CHARS or not self._max_bytes or not _has_sandbox(view):
            return None
        data = text.encode("utf-8", "replace")
        kept = data[: self._max_bytes].decode("utf-8", "ignore").encode()
        try:
            blob = await self._store.put(new_key(), _chunks(kept), self._max_bytes)
        except Unavailable as error:
            log.warning("result_not_kept", session=view.subject.session_id, error=str(error))
            return None
        where = _where(use_id, len(kept), len(data), self_hosted=view.state.self_hosted)
        others = [block for block in answer.content if block["type"] != "text"]
        content = [{"type": "text", "text": preview(text, where)}, *others]
        return Spilled(content, {"spill": [blob.key, blob.size_bytes, blob.sha256]})


def hold(tx: Tx, view: View, written: Sequence[Record]) -> None:
    """Hold the texts that these rows tell of, and let go of a session's oldest."""
    subject = view.subject
    found = [r for r in written if r.type == "agent.mcp_tool_result" and r.private]
    for record in found:
        spill = (record.private or {}).get("spill")
        if isinstance(spill, Sequence):
            owner = _owner(subject.session_id, str(record.body["mcp_tool_use_id"]))
            holdings.take(tx, subject.workspace_id, owner, Blob(*spill), counted=False)
    if found:
        names = list(of_session(tx, subject.session_id))
        old = [_owner(subject.session_id, name) for name in names[:-MAX_KEPT]]
        if old:
            holdings.drop(tx, old)


def of_session(tx: Tx, session_id: str) -> dict[str, Blob]:
    """Return what is kept of a session's results by the call's id, oldest first."""
    first, behind = _owner(session_id, ""), f"{session_id}0"  # the character after the slash
    table = blobs.c
    which = select(table.owner_id, table.key, table.size_bytes, table.sha256).where(
        table.owner_id >= first, table.owner_id < behind
    )
    rows = tx.execute(which.order_by(table.owner_id)).all()
    return {
        row.owner_id.removeprefix(first): Blob(row.key, row.size_bytes, row.sha256) for row in rows
    }


def get(tx: Tx, session_id: str, use_id: str) -> Blob:
    """Return what is kept of one result.

    Raises:
        NotFound: nothing.
    """
    found = holdings.of(tx, _owner(session_id, use_id))
    if found is None:
        raise NotFound(f"no kept result of {use_id[:80]!r}")
    return found


def release(tx: Tx, session_id: str) -> None:
    """Let go of all that is kept of a session that is deleted; the bytes are swept."""
    names = of_session(tx, session_id)
    if names:
        holdings.drop(tx, [_owner(session_id, name) for name in names])


def _owner(session_id: str, use_id: str) -> str:
    return f"{session_id}/{use_id}"


def _has_sandbox(view: View) -> bool:
    return any(tool.kind is CallKind.SANDBOX for tool in view.tools().values())


def _where(use_id: str, kept: int, whole: int, *, self_hosted: bool) -> str:
    what = "the whole output" if kept == whole else f"the first {kept} of {whole} bytes"
    # The official worker knows no such files, and nobody can tell which worker will serve.
    unless = ", unless this environment's worker provides no such files" if self_hosted else ""
    return f"{what} can be read in {place(use_id)} of the sandbox{unless}"


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]
