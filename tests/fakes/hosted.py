"""A cloud session's files at the server, without HTTP: what ``HostedClient`` does with them."""

import hashlib
from pathlib import Path

import anyio.lowlevel

from intramuros.execution.client import Refused, Work
from intramuros.execution.hosted_client import Repository


class FakeHosted:
    """Mounted files by id, and outputs by path; ``failures`` are raised in turn."""

    def __init__(self) -> None:
        self.work = Work("work_1", "env_1", "session", "sesn_1", "token", hosted=True)
        self.files: dict[str, bytes] = {}
        self.left: dict[str, bytes] = {}
        self.failures: list[Exception] = []
        self.log: list[tuple[str, str]] = []
        self.closed = False
        self.granted: list[Repository] = []
        self.reports: list[tuple[str, dict[str, object]]] = []

    async def download(self, file_id: str, target: Path, max_bytes: int) -> tuple[int, str]:
        await self._begin("download", file_id)
        if file_id not in self.files:
            raise Refused("HTTP 404", 404)
        content = self.files[file_id]
        assert len(content) <= max_bytes
        await anyio.Path(target).write_bytes(content)
        return len(content), hashlib.sha256(content).hexdigest()

    async def outputs(self) -> dict[str, str]:
        await self._begin("outputs", "")
        return {path: hashlib.sha256(data).hexdigest() for path, data in self.left.items()}

    async def put(self, path: str, source: Path, size: int) -> None:
        await self._begin("put", path)
        content = await anyio.Path(source).read_bytes()
        assert len(content) == size
        self.left[path] = content

    async def remove(self, path: str) -> None:
        await self._begin("remove", path)
        self.left.pop(path, None)

    async def repositories(self) -> list[Repository]:
        await self._begin("repositories", "")
        return list(self.granted)

    async def report(self, resource_id: str, report: dict[str, object]) -> None:
        await self._begin("report", resource_id)
        self.reports.append((resource_id, report))

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True

    async def _begin(self, act: str, what: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.log.append((act, what))
        if self.failures:
            raise self.failures.pop(0)
