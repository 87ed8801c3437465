"""The files of a cloud session between its sandbox and our own server (``/x/sessions/{id}/…``).

Official clients have no methods for these, so this is plain HTTP with the work item's token. Errors
are those of ``client.py``.
"""

import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2

from intramuros.execution.client import Away, Refused, Work
from intramuros.execution.dispatch import is_id
from intramuros.execution.egress.rules import SessionRules, read_rules
from intramuros.execution.server import Server, why_away
from intramuros.kernel.errors import OperatorError
from intramuros.protocol.resources.repositories import (
    check_branch,
    check_place,
    check_repository,
    check_sha,
    check_token,
)

_TIMEOUT: Final = httpx2.Timeout(60.0, connect=10.0)
_CHUNK: Final = 256 * 1024
_RETRYABLE: Final = frozenset({408, 409, 429})
_MAX_LIST_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True)
class Repository:
    """A repository to clone into a sandbox; ``place`` is where, and the token stays out of it."""

    resource_id: str
    url: str
    place: str
    updated_at: str
    branch: str | None = None
    commit: str | None = None
    token: str | None = field(default=None, repr=False)


class HostedClient:
    """What one work item may do with its session's files.

    Args:
        server: that handed the item out.
        work: the item; it has a token of its own.
    """

    def __init__(self, server: Server, work: Work) -> None:
        if work.token is None:
            raise OperatorError("a cloud session came without a token", "update the server")
        self.work = work
        self._http = server.client(
            f"/x/sessions/{work.session_id}", {"authorization": f"Bearer {work.token}"}, _TIMEOUT
        )

    async def download(self, file_id: str, target: Path, max_bytes: int) -> tuple[int, str]:
        """Save a mounted file; returns its size in bytes and its SHA-256 in hex.

        Raises:
            Refused: it is gone, or longer than ``max_bytes``.
        """
        digest, size = hashlib.sha256(), 0
        with mapped():
            async with (
                self._http.stream("GET", f"/files/{file_id}/content") as answer,
                await anyio.open_file(target, "wb") as file,
            ):
                checked(answer)
                async for chunk in answer.aiter_bytes(_CHUNK):
                    size += len(chunk)
                    if size > max_bytes:
                        raise Refused(f"over {max_bytes} bytes", 413)
                    digest.update(chunk)
                    await file.write(chunk)
        return size, digest.hexdigest()

    async def outputs(self) -> dict[str, str]:
        """Return the SHA-256 of each output that the server has, by its path."""
        with mapped():
            answer = await self._http.get("/outputs")
            checked(answer)
            if len(answer.content) > _MAX_LIST_BYTES:
                raise Away("the list of outputs is too long")
            listed: Any = answer.json()
        try:
            return {str(item["path"]): str(item["sha256"]) for item in listed["data"]}
        except (KeyError, TypeError) as error:
            raise Away("malformed list of outputs") from error

    async def put(self, path: str, source: Path, size: int) -> None:
        """Send an output's bytes."""

        async def chunks() -> AsyncIterator[bytes]:
            async with await anyio.open_file(source, "rb") as file:
                while chunk := await file.read(_CHUNK):
                    yield chunk

        with mapped():
            answer = await self._http.put(
                "/outputs",
                params={"path": path},
                content=chunks(),
                headers={"content-length": str(size)},
            )
            checked(answer)

    async def remove(self, path: str) -> None:
        """Say that an output is no more."""
        with mapped():
            checked(await self._http.delete("/outputs", params={"path": path}))

    async def egress(self) -> SessionRules:
        """Return what the sandbox may reach, and the secrets that its requests may carry."""
        with mapped():
            answer = await self._http.post("/egress")
            checked(answer)
            if len(answer.content) > _MAX_LIST_BYTES:
                raise Away("the rules of the network are too long")
            return read_rules(answer.json())

    async def repositories(self) -> list[Repository]:
        """Return what to clone, tokens included."""
        with mapped():
            answer = await self._http.post("/repositories")
            checked(answer)
            if len(answer.content) > _MAX_LIST_BYTES:
                raise Away("the list of repositories is too long")
            listed: Any = answer.json()
        try:
            return [read_repository(item) for item in listed["data"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # Not the error's own words: they could name what must not be said.
            raise Away("malformed list of repositories") from error

    async def report(self, resource_id: str, report: Mapping[str, object]) -> None:
        """Say what became of a checkout; saying it again is harmless."""
        with mapped():
            checked(await self._http.post(f"/repositories/{resource_id}", json=dict(report)))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


def read_repository(item: Any) -> Repository:  # noqa: ANN401  foreign data
    """Read one of the repositories that the server names; it is checked as the server checks.

    Raises:
        ValueError, KeyError, TypeError: it has another form.
    """
    checkout = item["checkout"] or {}
    branch, commit = checkout.get("name"), checkout.get("sha")
    if not is_id(item["id"]):
        raise ValueError("a repository without an id")
    return Repository(
        item["id"],
        check_repository(item["url"]),
        check_place(item["mount_path"]),
        str(item["updated_at"]),
        None if branch is None else check_branch(branch),
        None if commit is None else check_sha(commit).lower(),
        None if (token := item["authorization_token"]) is None else check_token(token),
    )


def checked(answer: httpx2.Response) -> None:
    """Look at an answer's status.

    Raises:
        Refused: asking again does not help.
        Away: it may.
    """
    status = answer.status_code
    if status < 400:
        return
    if status < 500 and status not in _RETRYABLE:
        raise Refused(f"HTTP {status}", status)
    raise Away(f"HTTP {status}")


@contextmanager
def mapped() -> Iterator[None]:
    """Raise what HTTP raises as :class:`Away`."""
    try:
        yield
    except httpx2.HTTPError as error:
        raise Away(why_away(error)) from error
    except ValueError as error:
        raise Away("malformed answer") from error
