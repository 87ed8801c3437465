"""Skills of a session: fetched by the worker, unpacked beside the sandbox, shown in it read-only.

The sandbox never fetches anything, and the worker never writes into a workspace: what a sandbox may
have left there (a link, say) cannot lead it anywhere. A skill that fails is logged and left out
(contract 24.6).
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from intramuros.execution.archives import BadArchive, unpack
from intramuros.execution.client import Away, ControlPlaneError, ItemClient, Skill, SkillVersion
from intramuros.execution.record import INWARD, Record, RecordFailed
from intramuros.execution.sandbox.base import WORKSPACE, Mount
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import backoff_s
from intramuros.protocol.resources.skills import safe_path

log = logger("skills")

MAX_SKILLS: Final = 500
MAX_ARCHIVE_BYTES: Final = 64 * 1024 * 1024
TARGET: Final = f"{WORKSPACE}/skills"
_ATTEMPTS: Final = 4
# All skills of a session together, in seconds; the lease is beaten meanwhile.
_PATIENCE_S: Final = 300.0


@dataclass
class _Laid:
    folder: Path
    skills: tuple[Skill, ...]
    used: bool = True


class Skills:
    """The unpacked skills of one worker's sessions.

    Args:
        folder: for them alone; what an earlier worker left in it is removed.
        rand: numbers in [0, 1), to spread retries.

    Raises:
        OperatorError: the folder cannot be used.
    """

    def __init__(self, folder: Path, record: Record, rand: Callable[[], float]) -> None:
        self._folder = folder
        self._record = record
        self._rand = rand
        self._laid: dict[str, _Laid] = {}
        try:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise OperatorError(
                f"cannot use the skills directory {folder} ({error.strerror})",
                "name a state directory with --state-dir that this user may write",
            ) from error

    async def lay_out(self, client: ItemClient, skills: tuple[Skill, ...]) -> tuple[Mount, ...]:
        """Fetch a session's skills and return what its sandbox is to show.

        Args:
            client: of the item; its credential reads the skills.
            skills: as the session names them.
        """
        session_id = client.work.session_id
        known = self._laid.get(session_id)
        if known is not None and known.skills == skills:
            known.used = True
            return (Mount(known.folder, TARGET),)
        await self.remove(session_id)
        if not skills:
            return ()
        folder = Path(await to_thread.run_sync(partial(tempfile.mkdtemp, dir=self._folder)))
        self._laid[session_id] = _Laid(folder, skills)
        await anyio.Path(folder).chmod(0o755)
        with anyio.move_on_after(_PATIENCE_S) as scope:
            for skill in skills[:MAX_SKILLS]:
                await self._try(client, skill, folder)
        if scope.cancelled_caught:
            log.warning("skills_took_too_long", session_id=session_id)
        return (Mount(folder, TARGET),)

    async def tidy(self, session_id: str, kept: Callable[[str], bool]) -> None:
        """A session's item is over: remove the skills of sessions without a sandbox.

        Args:
            kept: tells whether a session's sandbox waits for its next item.
        """
        laid = self._laid.get(session_id)
        if laid is not None:
            laid.used = False
        for name in [name for name, laid in self._laid.items() if not laid.used and not kept(name)]:
            await self.remove(name)

    async def remove(self, session_id: str) -> None:
        """Remove a session's skills; harmless when there are none."""
        laid = self._laid.pop(session_id, None)
        if laid is not None:
            await to_thread.run_sync(partial(shutil.rmtree, laid.folder, ignore_errors=True))

    async def _try(self, client: ItemClient, skill: Skill, folder: Path) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                await self._fetch(client, skill, folder)
            except Away as error:
                if attempt + 1 < _ATTEMPTS:
                    await anyio.sleep(backoff_s(attempt, 0.5, 8.0, self._rand()))
                    continue
                _log_failure(skill, error)
            except (ControlPlaneError, BadArchive, RecordFailed, OSError, ValueError) as error:
                _log_failure(skill, error)
            return

    async def _fetch(self, client: ItemClient, skill: Skill, folder: Path) -> None:
        version = await client.skill_version(skill)
        place = folder / directory_of(version, skill)
        if place.exists():
            raise ValueError(f"another skill is named {place.name!r} too")
        work = Path(await to_thread.run_sync(partial(tempfile.mkdtemp, dir=self._folder)))
        try:
            archive = work / "archive"
            digest = await client.download_skill(skill, version, archive, MAX_ARCHIVE_BYTES)
            await self._record.write(
                "skill.fetch",
                direction=INWARD,
                session_id=client.work.session_id,
                skill_id=skill.skill_id,
                version_id=version.id,
                bytes=archive.stat().st_size,
                sha256=digest,
            )
            await to_thread.run_sync(unpack, archive, work / "skill")
            (work / "skill").rename(place)
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(partial(shutil.rmtree, work, ignore_errors=True))
        log.info("skill_ready", skill_id=skill.skill_id, version_id=version.id)


def directory_of(version: SkillVersion, skill: Skill) -> str:
    """Return the directory of a skill: its name's last component, or its id (contract 24.3).

    Raises:
        ValueError: neither can be one.
    """
    for name in (version.name.strip().rpartition("/")[2], skill.skill_id):
        try:
            parts = safe_path(name)
        except ValueError:
            continue
        if len(parts) == 1:
            return name
    raise ValueError("neither its name nor its id can be a directory")


def _log_failure(skill: Skill, error: Exception) -> None:
    log.warning("skill_left_out", skill_id=skill.skill_id, error=f"{type(error).__name__}: {error}")
