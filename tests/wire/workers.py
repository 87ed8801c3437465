"""Both workers over a site's environment: the SDK's own, and ours with real sandboxes."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
from anthropic import AsyncAnthropic

from intramuros.execution.egress.upstream import Resolver, system_resolver
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.settings import WorkerSettings
from intramuros.execution.worker import serve_worker
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.service import Stop
from intramuros.protocol.audit import verify
from tests.hosts import needs_sandboxes
from tests.wire.site import Site


@contextlib.asynccontextmanager
async def official(site: Site, folder: Path) -> AsyncIterator[Path]:
    """The SDK's own worker, unsandboxed; gives its working directory."""
    workdir = folder / "official"
    workdir.mkdir()
    async with AsyncAnthropic(base_url=site.server.base_url, auth_token=site.key) as sdk:
        worker = sdk.beta.environments.work.worker(
            environment_id=site.environment_id,
            environment_key=site.key,
            workdir=str(workdir),
            max_idle=1.0,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            yield workdir
            group.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def ours(
    site: Site,
    folder: Path,
    pool_key: str | None = None,
    resolver: Resolver = system_resolver,
    **more: Any,
) -> AsyncIterator[Path]:
    """Our worker with real sandboxes; gives its state directory.

    Args:
        pool_key: to serve the cloud environments instead of the site's own.
        resolver: turns names that sandboxes may reach into addresses.
        more: other settings of the worker.
    """
    needs_sandboxes()
    key = folder / "key"
    key.write_text(pool_key or site.key)
    key.chmod(0o600)
    state = folder / "state"
    settings = WorkerSettings(
        site.server.base_url,
        key,
        state,
        None if pool_key else site.environment_id,
        pool=pool_key is not None,
        max_idle_s=1.0,
        **more,
    )
    stop, ready = Stop(), anyio.Event()

    async def run() -> None:
        provider = BubblewrapProvider(state / "sandboxes")
        await serve_worker(
            settings,
            provider=provider,
            ready=lambda _: ready.set(),
            stop=stop,
            resolver=resolver,
        )

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        with anyio.fail_after(60):
            await ready.wait()
        yield state
        stop.request()
    verify(read_lines(settings.audit_path()))
