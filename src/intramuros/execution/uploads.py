"""Files that a cloud session has mounted: fetched by the worker, shown to the sandbox read-only.

The directory is ours alone: nothing in the sandbox can write to it, so plain paths are safe here.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from intramuros.execution.client import Away, Refused, Upload
from intramuros.execution.hosted_client import HostedClient
from intramuros.execution.record import INWARD, Record
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import backoff_s
from intramuros.protocol.resources.mounts import UPLOADS, upload_place

log = logger("uploads")

MAX_FILE_BYTES: Final = 2 * 1024**3
_ATTEMPTS: Final = 4


class Uploads:
    """The mounted files of one session.

    Args:
        home: a directory of ours; the sandbox sees only ``home/files``.
        rand: numbers in [0, 1), to spread retries.
    """

    def __init__(
        self, home: Path, client: HostedClient, record: Record, rand: Callable[[], float]
    ) -> None:
        self.path = home / "files"
        self._fresh = home / "fresh"
        self._client = client
        self._record = record
        self._rand = rand
        self._there: dict[str, Upload] = {}

    async def open(self, wanted: Sequence[Upload]) -> None:
        """Begin with nothing but what is wanted.

        Raises:
            Away: a file cannot be had now.
            OSError, RecordFailed: it cannot be stored, or its arrival not recorded.
        """
        await to_thread.run_sync(self._clear)
        self._there.clear()
        await self.sync(wanted)

    async def sync(self, wanted: Sequence[Upload]) -> None:
        """Fetch what is new and remove what is no longer mounted; errors as for :meth:`open`."""
        by_place = {upload.place: upload for upload in wanted}
        for place, upload in list(self._there.items()):
            if by_place.get(place) != upload:
                (self.path / _inner(place)).unlink(missing_ok=True)
                del self._there[place]
        for place, upload in by_place.items():
            if place not in self._there:
                await self._fetch(upload)

    async def _fetch(self, upload: Upload) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                await self._once(upload)
            except Refused as error:
                # Taken out of the session meanwhile, or too large for this host.
                log.warning("file_left_out", file_id=upload.file_id, error=str(error))
                return
            except Away:
                if attempt + 1 == _ATTEMPTS:
                    raise
                await anyio.sleep(backoff_s(attempt, 0.5, 5.0, self._rand()))
            else:
                return

    async def _once(self, upload: Upload) -> None:
        try:
            inner = _inner(upload.place)
        except ValueError as error:
            raise Refused(f"{upload.place!r} {error}", 400) from error
        try:
            size, sha256 = await self._client.download(upload.file_id, self._fresh, MAX_FILE_BYTES)
            await self._record.write(
                "file.fetch",
                direction=INWARD,
                session_id=self._client.work.session_id,
                file_id=upload.file_id,
                bytes=size,
                sha256=sha256,
            )
            await to_thread.run_sync(self._place, inner)
        finally:
            self._fresh.unlink(missing_ok=True)
        self._there[upload.place] = upload

    def _clear(self) -> None:
        """Empty the directory, which itself stays: a paused sandbox may have it mounted."""
        self.path.mkdir(parents=True, mode=0o755, exist_ok=True)
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _place(self, inner: str) -> None:
        target = self.path / inner
        for folder in reversed(target.relative_to(self.path).parents):
            (self.path / folder).mkdir(mode=0o755, exist_ok=True)
        self._fresh.chmod(0o644)
        self._fresh.rename(target)


def _inner(place: str) -> str:
    """Return a place below the mounted directory.

    Raises:
        ValueError: it is not there.
    """
    if upload_place(place) != place:
        raise ValueError(f"is not below {UPLOADS}")
    return place.removeprefix(f"{UPLOADS}/")
