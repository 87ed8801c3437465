"""A sandbox provider without a sandbox: tools are functions of the test."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from intramuros.execution.sandbox.base import (
    Capabilities,
    ExecResult,
    Finding,
    SandboxBusy,
    SandboxError,
    SandboxGone,
    SandboxSpec,
    ToolOutcome,
)

Handler = Callable[[str, Mapping[str, Any]], Awaitable[ToolOutcome]]


async def echo(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
    return ToolOutcome.text(f"{tool}: {sorted(arguments.items())}")


class FakeSandbox:
    def __init__(self, provider: "FakeProvider", sandbox_id: str) -> None:
        self._provider = provider
        self.sandbox_id = sandbox_id
        self.alive = True
        self.paused = False

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        assert not self.paused
        if not self.alive:
            raise SandboxGone("dead")
        self._provider.calls.append((self.sandbox_id, tool, dict(arguments)))
        return await self._provider.handler(tool, arguments)

    def network(self) -> int:
        raise SandboxError("a function of a test has no network")

    async def exec(self, argv: Any, **_options: Any) -> ExecResult:
        raise NotImplementedError

    async def pause(self) -> None:
        self.paused = True

    async def resume(self) -> None:
        self.paused = False

    async def destroy(self, *, keep_workspace: bool = True) -> None:
        self.alive = False
        self._provider.live.pop(self.sandbox_id, None)
        self._provider.destroyed.append(self.sandbox_id)


class FakeProvider:
    name = "fake"

    def __init__(
        self,
        handler: Handler = echo,
        *,
        pause: bool = False,
        egress: bool = False,
        snapshots: bool = False,
    ) -> None:
        self.handler = handler
        self.capabilities = Capabilities(
            isolation="none",
            pause="signal" if pause else "none",
            memory_limit="none",
            cpu_limit=False,
            disk_quota="none",
            distinct_uids=False,
            egress=egress,
            snapshots=snapshots,
        )
        self.live: dict[str, FakeSandbox] = {}
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.created: list[tuple[SandboxSpec, str]] = []
        self.destroyed: list[str] = []
        self.forgotten: list[str] = []
        self.log: list[str] = []

    def probe(self) -> list[Finding]:
        return []

    async def start(self) -> None:
        self.log.append("start")

    async def create(self, spec: SandboxSpec, sandbox_id: str) -> FakeSandbox:
        if sandbox_id in self.live:
            raise SandboxBusy(f"{sandbox_id} is live")
        self.created.append((spec, sandbox_id))
        self.live[sandbox_id] = FakeSandbox(self, sandbox_id)
        return self.live[sandbox_id]

    async def sweep(self) -> list[str]:
        self.log.append("sweep")
        return []

    async def watch(self) -> None:
        await anyio.sleep_forever()

    async def forget(self, sandbox_id: str) -> None:
        self.forgotten.append(sandbox_id)

    async def aclose(self) -> None:
        self.log.append("close")
        self.live.clear()
