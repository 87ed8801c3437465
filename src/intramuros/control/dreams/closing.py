"""The end of a dream: its report, its archived session, and the last change of its row.

The report takes a transaction of its own, because its bytes lie outside the database; its file is
made in the transaction that closes the dream, so there is one.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final

import anyio
from anyio import to_thread

from intramuros.control.catalog import files, memories, memory_versions
from intramuros.control.dreams import report, rows
from intramuros.control.dreams.acts import Acts
from intramuros.control.dreams.plan import Close, Dream
from intramuros.control.dreams.report import Compared
from intramuros.control.dreams.service import usage_of
from intramuros.control.store import leases
from intramuros.control.store.blobs import Blob, Blobs, new_key
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.leases import Lease
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.telemetry import logger

log = logger("dreams")

# The store of blobs is waited for this long, which is far shorter than a claim lasts.
_BLOB_S: Final = 60.0
_TEXTS: Final = 200


@dataclass(frozen=True)
class Closing:
    """Ends dreams.

    Args:
        quota_bytes: what all files may take together; a report that does not fit is left out.
    """

    db: Database
    blobs: Blobs
    acts: Acts
    quota_bytes: int

    async def close(self, lease: Lease, act: Close) -> None:
        """Write the report and end the dream, unless something else is due by then.

        Raises:
            LostLease: somebody else may act for the dream; it is as it was.
            Unavailable: the report cannot be stored now.
        """
        blob = await self._report(lease, act) if act.report else None
        await self.db.write(lambda tx: self._close(tx, lease, act, blob))

    async def _report(self, lease: Lease, act: Close) -> Blob | None:
        """Store the report's bytes and return where they are; None if there is nothing to tell."""
        found = await self.db.read(lambda tx: self._compare(tx, lease))
        if found is None:
            return None
        dream, compared, usage = found
        dream = replace(dream, status=act.status)
        text = await to_thread.run_sync(report.write, dream, compared, usage)

        async def chunks() -> AsyncIterator[bytes]:
            yield text.encode()

        with anyio.fail_after(_BLOB_S):
            return await self.blobs.put(new_key(), chunks(), 4 * report.MAX_CHARS)

    def _compare(self, tx: Tx, lease: Lease) -> tuple[Dream, list[Compared], dict[str, int]] | None:
        dream = rows.of_session(tx, lease.key)
        state = rows.states(tx, [lease.key]).get(lease.key)
        if dream is None or state is None or dream.output_id is None:
            return None
        known = {one.path: one for one in rows.all_known(tx, dream)}
        found = [one.found for one in known.values() if one.found is not None]
        before = _texts(tx, found)
        after = _paths(tx, dream.output_id)
        now = _texts(tx, list(after.values()))
        compared = []
        for path in sorted({*known, *after}):
            one = known.get(path)
            was = None if one is None or one.found is None else before.get(one.found)
            lost = one is not None and one.found is not None and was is None
            reason = one.reason if one is not None else None
            held = now.get(after[path]) if path in after else None
            compared.append(Compared(path, was, held, lost, reason))
        return dream, compared, usage_of(dream, state)

    def _close(self, tx: Tx, lease: Lease, act: Close, blob: Blob | None) -> None:
        """Be over: the report's file, the archived session, and the last change of the row."""
        leases.check(tx, leases.DREAMS, lease.key, lease.epoch)
        dream = rows.of_session(tx, lease.key)
        now_us = self.acts.stage.now_us()
        if dream is None or self.acts.next(tx, dream) != act:
            # Canceled, or its inputs went away, while the report was written: look again.
            leases.postpone(tx, lease, now_us, now_us)
            return
        state = rows.states(tx, [dream.session_id]).get(dream.session_id)
        if blob is not None:
            self._add_report(tx, dream, blob)
        self.acts.stage.close(tx, dream)
        ended = {} if dream.ended else {"status": act.status, "ended_us": now_us}
        rows.change(tx, dream, stopped_us=now_us, usage=usage_of(dream, state), **ended)
        if ended:
            self.acts.stage.audit_end(tx, dream, {"status": act.status})
        leases.drop(tx, leases.DREAMS, lease.key)

    def _add_report(self, tx: Tx, dream: Dream, blob: Blob) -> None:
        new = files.NewFile(
            report.NAME, "text/markdown", session_id=dream.session_id, downloadable=True
        )
        try:
            files.add(tx, self.acts.stage.actor(dream), new, blob, self.quota_bytes)
        except InvalidRequest as error:
            # A full disk must not keep a dream from ending.
            log.warning("dream_report_left_out", dream=dream.id, error=error.message)


def _texts(tx: Tx, version_ids: list[str]) -> dict[str, str]:
    """Return what versions hold, some at a time."""
    found: dict[str, str] = {}
    for start in range(0, len(version_ids), _TEXTS):
        batch = version_ids[start : start + _TEXTS]
        for version_id, content in memory_versions.contents(tx, batch).items():
            found[version_id] = content.decode()
    return found


def _paths(tx: Tx, store_id: str) -> dict[str, str]:
    """Return the version at each path of a store."""
    after: str | None = None
    found: dict[str, str] = {}
    while True:
        page, more = memories.find(tx, store_id, memories.Query(_TEXTS, after=after))
        for item in page:
            if not isinstance(item, str):
                found[item.path] = item.version_id
                after = item.path
        if not more:
            return found
