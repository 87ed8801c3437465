"""A worker under test: against a control plane over HTTP, with sandboxes of our making."""

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from intramuros.execution.settings import WorkerSettings
from intramuros.execution.worker import serve_worker
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.service import Stop
from intramuros.protocol.audit import verify
from tests.fakes.control_plane import ENVIRONMENT, KEY, ControlPlane, FakeItem
from tests.fakes.sandbox import FakeProvider


class Rig:
    """One control plane, one worker, and how to wait for what they do."""

    def __init__(self, plane: ControlPlane, provider: FakeProvider, folder: Path) -> None:
        self.plane = plane
        self.provider = provider
        key = folder / "key"
        key.write_text(KEY + "\n")
        key.chmod(0o600)
        self.settings = WorkerSettings(
            base_url=plane.base_url,
            environment_id=ENVIRONMENT,
            environment_key_file=key,
            state_dir=folder / "state",
            max_idle_s=0.2,
        )
        self.ready: list[str] = []

    @contextlib.asynccontextmanager
    async def worker(self, **changes: Any) -> AsyncIterator[Stop]:
        stop = Stop()
        settings = replace(self.settings, **changes)
        async with anyio.create_task_group() as group:

            async def run() -> None:
                await serve_worker(
                    settings, provider=self.provider, ready=self.ready.append, stop=stop
                )

            group.start_soon(run)
            try:
                yield stop
            finally:
                stop.request()

    def audit(self) -> list[dict[str, Any]]:
        if not self.settings.audit_path().exists():
            return []
        lines = list(read_lines(self.settings.audit_path()))
        verify(lines)
        return [json.loads(line) for line in lines]

    def kinds(self) -> list[str]:
        return [record["kind"] for record in self.audit()]


async def stopped(item: FakeItem) -> None:
    with anyio.fail_after(60):
        await item.stopped.wait()
