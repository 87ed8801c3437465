"""What is known of snapshots: one sealed manifest each, and for each session which to wake from.

Names in the store::

    data/<snapshot>                      the sealed stream
    snapshots/<snapshot>                 its manifest: written last, so it means that all is there
    sessions/<digest of id>/<number>     which snapshot a session wakes from; the highest counts
    awake/<digest of id>/<number>        somebody woke it from there

A session's numbers only grow, and each can be written once: two workers that both put the same
session away cannot overwrite each other. All of it is sealed for the name it lies under, so that
nothing can be moved to another name. Every method blocks; call them on a thread.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from intramuros.execution.snapshots.keys import KEY_BYTES, Keyring
from intramuros.execution.snapshots.sealed import Damaged
from intramuros.execution.snapshots.shelf import ObjectGone, Shelf

MAX_LISTED: Final = 10_000
EXPIRED: Final = "expired"
"""Stands where a snapshot's id would: it was removed because it was too old."""
_ATTEMPTS: Final = 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """One snapshot. Times are seconds since the epoch."""

    id: str
    session_id: str
    worker: str
    created_at: float
    level: str
    entries: int
    data_bytes: int
    stored_bytes: int
    key: str
    """Of its data, base64; the manifest itself is sealed."""
    lost: tuple[str, ...] = ()
    """What of the sandbox is not in it, in words for whoever wakes it."""
    untold: str = ""
    """What the session was to be told of an earlier time, and was not."""
    name: str = ""
    """Given by an operator; a snapshot without one is replaced by its session's next."""
    expires_at: float | None = None

    def public(self) -> dict[str, Any]:
        """Return what an operator may see of it."""
        shown = asdict(self)
        del shown["key"], shown["untold"]
        return shown


@dataclass(frozen=True, slots=True)
class Head:
    """What a session wakes from."""

    number: int
    snapshot_id: str


class Catalogue:
    """Manifests and heads on one shelf."""

    def __init__(self, shelf: Shelf, keys: Keyring) -> None:
        self.shelf = shelf
        self._keys = keys

    def add(self, manifest: Manifest) -> None:
        """Store or replace a manifest; its data must be there.

        Raises:
            ShelfError: it could not be.
        """
        self._put(f"snapshots/{manifest.id}", {**asdict(manifest), "lost": list(manifest.lost)})

    def manifest(self, snapshot_id: str) -> Manifest:
        """Return one.

        Raises:
            ObjectGone: there is none.
            Damaged: it is not what we stored.
            ShelfError: the store does not give it.
        """
        if not snapshot_id.startswith("snap_") or not snapshot_id[5:].isalnum():
            raise ObjectGone(f"{snapshot_id[:80]!r} is no id of a snapshot")
        try:
            raw = self._get(f"snapshots/{snapshot_id}")
        except ObjectGone as error:
            raise ObjectGone(f"there is no snapshot {snapshot_id}") from error
        try:
            return Manifest(**{**raw, "lost": tuple(raw["lost"])})
        except (TypeError, KeyError) as error:
            raise Damaged("the manifest is of another version") from error

    def manifests(self) -> Iterator[Manifest]:
        """Yield all that can be read, oldest id first; others are passed over.

        Raises:
            ShelfError: the store cannot be listed.
        """
        for name in self.shelf.names("snapshots")[:MAX_LISTED]:
            try:
                yield self.manifest(name.rpartition("/")[2])
            except (ObjectGone, Damaged):
                continue

    def head(self, session_id: str) -> Head | None:
        """Return what a session wakes from, None when it was never put away.

        Raises:
            Damaged: its latest note is not ours: to go back to an older one would lose work.
            ShelfError: the store does not answer.
        """
        names = self.shelf.names(_folder(session_id))
        if not names:
            return None
        raw = self._get(names[-1])
        if raw.get("session_id") != session_id:
            raise Damaged("the note of where a session sleeps is another's")
        return Head(int(names[-1].rpartition("/")[2]), str(raw["snapshot_id"]))

    def advance(self, session_id: str, snapshot_id: str) -> Head:
        """Let a session wake from a snapshot from now on.

        Raises:
            ShelfError: the store refused; the session wakes from what it did before.
        """
        names = self.shelf.names(_folder(session_id))
        first = int(names[-1].rpartition("/")[2]) + 1 if names else 1
        note = {"session_id": session_id, "snapshot_id": snapshot_id}
        for number in range(first, first + _ATTEMPTS):
            name = _note(session_id, number)
            if self.shelf.put(name, self._sealed(name, note), new=True):
                return Head(number, snapshot_id)
        raise Damaged("others put this session away at the same time, again and again")

    def was_woken(self, session_id: str, head: Head) -> bool:
        """Tell whether somebody woke the session from there."""
        return _awake(session_id, head.number) in self.shelf.names(_awake(session_id))

    def mark_woken(self, session_id: str, head: Head) -> None:
        """Note that somebody does now."""
        name = _awake(session_id, head.number)
        self.shelf.put(name, self._sealed(name, {}))

    def retire(self, session_id: str, head: Head) -> None:
        """Remove what a session's head has replaced: older notes, and snapshots without a name."""
        self._forget_awake(session_id, head.number)
        for name in self.shelf.names(_folder(session_id)):
            if int(name.rpartition("/")[2]) >= head.number:
                continue
            try:
                older = self.manifest(str(self._get(name)["snapshot_id"]))
            except (ObjectGone, Damaged):
                older = None
            own = older is not None and older.session_id == session_id and not older.name
            if older is not None and own and older.id != head.snapshot_id:
                self.remove(older.id)
            self.shelf.remove(name)

    def forget(self, session_id: str) -> None:
        """Remove a session's notes and its snapshots without a name."""
        head = self.shelf.names(_folder(session_id))
        for manifest in list(self.manifests()) if head else []:
            if manifest.session_id == session_id and not manifest.name:
                self.remove(manifest.id)
        for name in head:
            self.shelf.remove(name)
        self._forget_awake(session_id, None)

    def _forget_awake(self, session_id: str, before: int | None) -> None:
        for name in self.shelf.names(_awake(session_id)):
            if before is None or int(name.rpartition("/")[2]) < before:
                self.shelf.remove(name)

    def remove(self, snapshot_id: str) -> None:
        """Remove a snapshot; the manifest first, so that none is without its data."""
        self.shelf.remove(f"snapshots/{snapshot_id}")
        self.shelf.remove(f"data/{snapshot_id}")

    def sleeping_in(self, snapshot_id: str) -> list[str]:
        """Return the sessions that would wake from a snapshot."""
        latest: dict[str, str] = {}
        for name in self.shelf.names("sessions"):
            latest[name.rpartition("/")[0]] = name
        found = []
        for name in latest.values():
            try:
                note = self._get(name)
            except (ObjectGone, Damaged):
                continue
            if note.get("snapshot_id") == snapshot_id:
                found.append(str(note.get("session_id")))
        return found

    def expire(self, manifest: Manifest) -> None:
        """Remove a snapshot, and let the sessions that would wake from it know when they wake."""
        for session_id in self.sleeping_in(manifest.id):
            self.advance(session_id, EXPIRED)
        self.remove(manifest.id)

    def rename(self, manifest: Manifest, name: str) -> Manifest:
        """Give a snapshot a name, which keeps it."""
        named = replace(manifest, name=name)
        self.add(named)
        return named

    def reseal(self) -> int:
        """Seal everything small anew under the first key; returns how many objects.

        Raises:
            Damaged: one of them cannot be opened; the rest are done or as they were.
        """
        kinds = ("snapshots", "sessions", "awake")
        names = [name for kind in kinds for name in self.shelf.names(kind)]
        for name in names:
            opened = self._keys.open_sealed(self.shelf.get(name), name)
            self.shelf.put(name, self._keys.seal(opened, name))
        return len(names)

    def sweep(self, before: float) -> int:
        """Remove data of before a time that has no manifest; returns how many."""
        known = {name.rpartition("/")[2] for name in self.shelf.names("snapshots")}
        stale = [
            name
            for name in self.shelf.old_names("data", before)
            if name.rpartition("/")[2] not in known
        ]
        for name in stale:
            self.shelf.remove(name)
        return len(stale) + self.shelf.remove_partial(before)

    def _put(self, name: str, value: dict[str, Any]) -> None:
        self.shelf.put(name, self._sealed(name, value))

    def _sealed(self, name: str, value: dict[str, Any]) -> bytes:
        return self._keys.seal(json.dumps(value).encode(), name)

    def _get(self, name: str) -> dict[str, Any]:
        value = json.loads(self._keys.open_sealed(self.shelf.get(name), name))
        if not isinstance(value, dict):
            raise Damaged("it is of another version")
        return value


def new_id() -> str:
    """Return the id of a new snapshot."""
    return f"snap_{secrets.token_hex(16)}"


def new_key() -> str:
    """Return a key for one snapshot's data, as manifests hold it."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def key_of(manifest: Manifest) -> bytes:
    """Return the key of a snapshot's data."""
    return base64.b64decode(manifest.key)


def _folder(session_id: str) -> str:
    # Ids come from the control plane; a digest keeps them from naming a path.
    digest = hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()[:40]
    return f"sessions/{digest}"


def _note(session_id: str, number: int) -> str:
    return f"{_folder(session_id)}/{number:010d}"


def _awake(session_id: str, number: int | None = None) -> str:
    folder = f"awake/{_folder(session_id).partition('/')[2]}"
    return folder if number is None else f"{folder}/{number:010d}"
