"""The repositories of a cloud session: cloned into its sandbox once, reached through the proxy.

What became of each is kept outside of the sandbox and told to the server, so that a session that
goes on keeps its repositories, whatever its agent made of them. A session runs without those that
cannot be had (contract-2 R396).
"""

import json
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import anyio
from anyio import to_thread

from intramuros.execution.checkout import CheckedOut, Checkout, CheckoutFailed
from intramuros.execution.client import Away, ControlPlaneError
from intramuros.execution.hosted_client import HostedClient, Repository
from intramuros.execution.mounted import Mounted
from intramuros.execution.outflow.gate import Gate
from intramuros.execution.record import INWARD, OUTWARD, Record, RecordFailed, weigh
from intramuros.execution.sandbox.base import Sandbox
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import backoff_s
from intramuros.protocol.resources.repositories import ERRORS, Trouble

log = logger("repositories")

_ATTEMPTS: Final = 3
# All attempts at one repository together, in seconds.
_PATIENCE_S: Final = 1_200.0
# What the host says of a repository before anything is cloned.
_REFUSED: Final[dict[int, Trouble]] = {
    401: "authentication",
    403: "forbidden",
    404: "not_found",
    410: "not_found",
    451: "forbidden",
}


class Road(Protocol):
    """How the sandbox of one session reaches its repositories: the proxy's side of it."""

    def grant(self, repositories: Sequence[Repository]) -> None:
        """Add these tokens, and no others, to what the sandbox asks of these repositories."""
        ...

    def opened(self) -> AbstractContextManager[None]:
        """Let the sandbox reach the repositories' host, whatever its environment says."""
        ...

    async def ask(self, repository: Repository) -> int | None:
        """Return the HTTP status with which the host answers, or None if it cannot be reached."""
        ...


@dataclass(frozen=True)
class Ground:
    """What a session's repositories are kept with.

    Args:
        home: a directory of ours, which no sandbox sees.
        take: gives the session's sandbox.
        road: None when sandboxes have no network at all.
        gate: what is told of repositories passes it.
        learn: told the tokens, which never leave again.
    """

    home: Path
    record: Record
    rand: Callable[[], float]
    take: Callable[[], Awaitable[Sandbox]]
    road: Road | None
    gate: Gate
    learn: Callable[[Iterable[str]], None]


class Repositories:
    """The repositories of one item's session."""

    def __init__(self, ground: Ground, client: HostedClient) -> None:
        self._ground = ground
        self._client = client
        self._seen: tuple[Mounted, ...] = ()
        self._notes = ground.home / "repositories.json"

    async def sync(self, wanted: tuple[Mounted, ...]) -> None:
        """Clone what is missing and take over rotated tokens, if anything is new; never raises."""
        if wanted == self._seen:
            return
        try:
            found = await self._reveal()
            noted = await to_thread.run_sync(self._load)
        except (ControlPlaneError, OSError) as error:
            # Looked for again before the next call.
            log.warning("repositories_not_known", error=str(error))
            return
        first, self._seen = not self._seen, wanted
        self._ground.learn(one.token for one in found if one.token)
        if self._ground.road is not None:
            self._ground.road.grant(found)
        for repository in found:
            if _due(repository, noted.get(repository.resource_id), first=first):
                await self._try(repository, noted)

    def close(self) -> None:
        """Take the tokens back from the proxy."""
        if self._ground.road is not None:
            self._ground.road.grant(())

    async def _reveal(self) -> list[Repository]:
        for attempt in range(_ATTEMPTS):
            try:
                return await self._client.repositories()
            except Away:
                if attempt + 1 == _ATTEMPTS:
                    raise
                await anyio.sleep(backoff_s(attempt, 0.5, 5.0, self._ground.rand()))
        raise AssertionError("unreachable")

    async def _try(self, repository: Repository, noted: dict[str, Any]) -> None:
        trouble: Trouble | None = None
        made = CheckedOut(None)
        try:
            made = await self._make(repository)
        except CheckoutFailed as error:
            trouble = error.trouble
            log.warning("repository_left_out", repository=repository.url, error=str(error))
        else:
            log.info("repository_ready", repository=repository.url, commit=made.commit)
        try:
            await self._ground.record.write(
                "repository.cloned" if trouble is None else "repository.left_out",
                session_id=self._client.work.session_id,
                repository=repository.url,
                commit=made.commit,
                trouble=trouble,
            )
            noted[repository.resource_id] = {"trouble": trouble, "of": repository.updated_at}
            await to_thread.run_sync(self._save, noted)
        except (OSError, RecordFailed) as error:
            log.error("repository_not_noted", error=str(error))
        await self._report(repository, made, trouble)

    async def _make(self, repository: Repository) -> CheckedOut:
        road = self._ground.road
        if road is None:
            raise CheckoutFailed("unreachable", "sandboxes of this worker have no network")
        try:
            await self._ground.record.write(
                "repository.clone",
                direction=INWARD,
                session_id=self._client.work.session_id,
                repository=repository.url,
                branch=repository.branch,
                commit=repository.commit,
                with_token=repository.token is not None,
            )
        except RecordFailed as error:
            raise CheckoutFailed("failed", str(error)) from error
        log.info("repository_begun", repository=repository.url)
        checkout = Checkout(self._ground.take, repository)
        with anyio.move_on_after(_PATIENCE_S):
            return await self._persist(road, repository, checkout)
        await checkout.discard()
        raise CheckoutFailed("too_slow")

    async def _persist(self, road: Road, repository: Repository, checkout: Checkout) -> CheckedOut:
        for attempt in range(_ATTEMPTS):
            try:
                await self._ask(road, repository)
                with road.opened():
                    return await checkout.make()
            except CheckoutFailed as error:
                passing = error.trouble in ("unreachable", "failed")
                if attempt + 1 == _ATTEMPTS or not passing:
                    raise
                log.info("repository_tried_again", repository=repository.url, error=str(error))
            await anyio.sleep(backoff_s(attempt, 1.0, 10.0, self._ground.rand()))
        raise AssertionError("unreachable")

    async def _ask(self, road: Road, repository: Repository) -> None:
        status = await road.ask(repository)
        if status is None or status >= 500 or status == 429:
            said = f"the host answered {status}" if status else "the host did not answer"
            raise CheckoutFailed("unreachable", said)
        if status in _REFUSED:
            raise CheckoutFailed(_REFUSED[status])

    async def _report(
        self, repository: Repository, made: CheckedOut, trouble: Trouble | None
    ) -> None:
        report = {
            "attempt": secrets.token_urlsafe(16),
            "trouble": trouble,
            "commit": made.commit,
            "skills": await self._told(made),
        }
        if made.commit is not None and not await self._recorded(repository, report):
            return
        for attempt in range(_ATTEMPTS):
            try:
                await self._client.report(repository.resource_id, report)
            except Away as error:
                log.info("repository_not_told", error=str(error))
                await anyio.sleep(backoff_s(attempt, 0.5, 5.0, self._ground.rand()))
            except ControlPlaneError as error:
                log.warning("repository_report_refused", error=str(error))
                return
            else:
                return

    async def _recorded(self, repository: Repository, report: dict[str, Any]) -> bool:
        """Record that something of the repository leaves; False if it could not be."""
        weight = weigh(report)
        try:
            await self._ground.record.write(
                "repository.report",
                direction=OUTWARD,
                session_id=self._client.work.session_id,
                repository=repository.url,
                bytes=weight.size,
                sha256=weight.sha256,
            )
        except RecordFailed as error:
            log.error("repository_not_told", error=str(error))
            return False
        return True

    async def _told(self, made: CheckedOut) -> list[dict[str, str]]:
        """Return what may be told of a commit's skills: texts out of the repository."""
        told = []
        for skill in made.skills:
            words = {key: await self._ground.gate.text(text) for key, text in asdict(skill).items()}
            # A masked path or name would be another skill's.
            if any(word.text is None or word.allowed is not None for word in words.values()):
                continue
            if words["path"].found.masked or words["name"].found.masked:
                continue
            told.append({key: word.text or "" for key, word in words.items()})
        return told

    def _load(self) -> dict[str, Any]:
        try:
            noted = json.loads(self._notes.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            log.warning("repository_notes_unreadable")
            return {}
        return noted if isinstance(noted, dict) else {}

    def _save(self, noted: dict[str, Any]) -> None:
        self._ground.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self._notes.with_suffix(".new")
        with draft.open("w", encoding="utf-8") as file:
            json.dump(noted, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._notes)


def _due(repository: Repository, note: Any, *, first: bool) -> bool:  # noqa: ANN401  JSON
    """Tell whether to clone: once, and again after trouble that may be over.

    Args:
        note: what is known of it.
        first: whether the session's item begins.
    """
    if not isinstance(note, dict):
        return True
    trouble = note.get("trouble")
    if trouble is None:
        return False
    # Another token may do; and what was only about the way there is tried by each item.
    passing = ERRORS.get(trouble) == "repository_clone_error"
    return note.get("of") != repository.updated_at or (first and passing)
