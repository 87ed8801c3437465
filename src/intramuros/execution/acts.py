"""What operators can ask a worker's desk about sessions and snapshots."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from anyio import to_thread

from intramuros.execution.desk import Act, BadRequest, Request, text
from intramuros.execution.hands import Hands
from intramuros.execution.resting import Resort
from intramuros.execution.sandbox.base import SandboxError
from intramuros.execution.snapshots.catalogue import Catalogue, Manifest
from intramuros.execution.snapshots.keys import Keyring

SILENT: Final = frozenset({"snapshots", "sandboxes"})
LEVELS: Final = ("freeze", "files", "full")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
_SESSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Acts:
    """The acts of one worker; without a ``resort`` only freezing works."""

    def __init__(self, hands: Hands, resort: Resort | None, keys: Keyring | None) -> None:
        self._hands = hands
        self._resort = resort
        self._keys = keys

    def table(self) -> Mapping[str, Act]:
        """Return them by name."""
        return {
            "sandboxes": self._sandboxes,
            "pause": self._pause,
            "resume": self._resume,
            "snapshots": self._list,
            "create": self._create,
            "restore": self._restore,
            "fork": self._fork,
            "delete": self._delete,
            "expire": self._expire,
            "rotate": self._rotate,
        }

    async def _sandboxes(self, _request: Request) -> object:
        return self._hands.states()

    async def _pause(self, request: Request) -> object:
        session_id, level = _session(request), text(request, "level")
        if level not in LEVELS:
            raise BadRequest(f"level must be one of {', '.join(LEVELS)}")
        if level == "freeze":
            if not await self._hands.freeze(session_id):
                raise SandboxError("there is no running sandbox of it here that can be frozen")
            return {"session": session_id, "level": level}
        if level == "full":
            raise SandboxError(
                "live processes cannot be kept on disk by this worker's provider;"
                " files, shell and what is lost can: use the level files"
            )
        manifest = await self._hands.put_away(session_id)
        return {"session": session_id, "level": level, **manifest.public()}

    async def _resume(self, request: Request) -> object:
        session_id = _session(request)
        await self._hands.wake(session_id)
        return {"session": session_id}

    async def _list(self, _request: Request) -> object:
        catalogue = self._catalogue()
        return [m.public() for m in await to_thread.run_sync(_sorted, catalogue)]

    async def _create(self, request: Request) -> object:
        manifest = await self._hands.snapshot(_session(request), _named(request))
        expires_s = request.get("expires_s")
        if expires_s is not None:
            manifest = await to_thread.run_sync(self._dated, manifest, expires_s)
        return manifest.public()

    def _dated(self, manifest: Manifest, expires_s: object) -> Manifest:
        if not isinstance(expires_s, int | float) or not 0 < expires_s < 10**10:
            raise BadRequest("expires_s must be a number of seconds above 0")
        dated = replace(manifest, expires_at=manifest.created_at + expires_s)
        self._catalogue().add(dated)
        return dated

    async def _restore(self, request: Request) -> object:
        """Let a session wake from one of its own snapshots; what it has now is given up."""
        manifest = await self._manifest(request)
        return await self._assign(manifest, manifest.session_id)

    async def _fork(self, request: Request) -> object:
        """Let another session, which has nothing yet, wake from a snapshot."""
        manifest, session_id = await self._manifest(request), _session(request)
        if session_id == manifest.session_id:
            raise BadRequest("that is the snapshot's own session: restore it instead")
        known = await to_thread.run_sync(self._catalogue().head, session_id)
        if known is not None or session_id in self._hands.states():
            raise SandboxError(f"session {session_id} has a sandbox already")
        if not manifest.name:
            # Its own session would replace it.
            await to_thread.run_sync(
                self._catalogue().rename, manifest, f"fork of {manifest.session_id}"
            )
        return await self._assign(manifest, session_id)

    async def _assign(self, manifest: Manifest, session_id: str) -> object:
        async with self._hands.gate(session_id):
            await self._hands.give_up(session_id)
            head = await to_thread.run_sync(self._catalogue().advance, session_id, manifest.id)
        return {"session": session_id, "id": manifest.id, "number": head.number}

    async def _delete(self, request: Request) -> object:
        manifest = await self._manifest(request)
        catalogue = self._catalogue()
        waiting = await to_thread.run_sync(catalogue.sleeping_in, manifest.id)
        if waiting and request.get("force") is not True:
            raise SandboxError(
                f"session {waiting[0]} would wake from it: `--force` gives up what the session has"
            )
        if waiting:
            await to_thread.run_sync(catalogue.expire, manifest)
        else:
            await to_thread.run_sync(catalogue.remove, manifest.id)
        return {"id": manifest.id}

    async def _expire(self, _request: Request) -> object:
        await self._needed().sleeper.tidy()
        return {}

    async def _rotate(self, request: Request) -> object:
        """Put a new key first, or forget the old ones; seals what is small under the first before.

        Whoever forgets makes no key: other workers have had the first one only since it was copied.
        """
        keys = self._keys
        if keys is None:
            raise SandboxError("this worker keeps no snapshots")
        forget = request.get("forget") is True
        if not forget:
            await to_thread.run_sync(keys.rotate)
        count = await to_thread.run_sync(self._catalogue().reseal)
        forgotten = await to_thread.run_sync(keys.forget_old) if forget else 0
        return {"resealed": count, "forgotten": forgotten}

    async def _manifest(self, request: Request) -> Manifest:
        wanted = partial(self._catalogue().manifest, text(request, "snapshot"))
        return await to_thread.run_sync(wanted)

    def _needed(self) -> Resort:
        if self._resort is None:
            raise SandboxError("this worker keeps no snapshots, or its provider cannot make them")
        return self._resort

    def _catalogue(self) -> Catalogue:
        return self._needed().sleeper.catalogue


def _session(request: Request) -> str:
    session_id = text(request, "session")
    if not _SESSION.fullmatch(session_id):
        raise BadRequest("that is no session's id")
    return session_id


def _named(request: Request) -> str:
    name = text(request, "name")
    if not _NAME.fullmatch(name):
        raise BadRequest("a name is 1 to 100 letters, digits, blanks, dots, _ and -")
    return name


def _sorted(catalogue: Catalogue) -> list[Manifest]:
    return sorted(catalogue.manifests(), key=lambda m: m.created_at)
