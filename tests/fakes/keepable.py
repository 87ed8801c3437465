"""Sandboxes without a sandbox that can be put away: a dictionary of files and a shell's script."""

from collections.abc import AsyncGenerator, AsyncIterable
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel

from intramuros.execution.sandbox.base import SandboxError, SandboxSpec
from intramuros.execution.sandbox.keeping import Facts, Process, Told
from tests.fakes.sandbox import FakeProvider, FakeSandbox


class FakeKeeper:
    def __init__(self, sandbox: "KeepableSandbox") -> None:
        self._sandbox = sandbox
        self.channel = SimpleNamespace(busy=sandbox.busy)
        self.facts = Facts()

    async def tell(self) -> Told:
        return Told(self._sandbox.script, ("the shell's open file 7",))

    async def save(self) -> AsyncGenerator[bytes]:
        assert not self._sandbox.paused
        if self._sandbox.broken:
            raise SandboxError("it broke")
        yield b"files:"
        for chunk in self._sandbox.files:
            await anyio.lowlevel.checkpoint()
            yield chunk
        processes = (Process(7, 5, "sleep 9"),) if self._sandbox.script else ()
        self.facts = Facts(len(self._sandbox.files), sum(map(len, self._sandbox.files)), processes)

    async def load(self, chunks: AsyncIterable[bytes]) -> int:
        data = b"".join([chunk async for chunk in chunks])
        if not data.startswith(b"files:"):
            raise SandboxError("this is no stream of files")
        self._sandbox.files[:] = [data.removeprefix(b"files:")]
        return self._sandbox.attributes_lost

    async def adopt(self, script: bytes) -> list[str]:
        self._sandbox.script = script
        return []


class KeepableSandbox(FakeSandbox):
    """Its files are those of its workspace, which outlives it."""

    busy = False
    broken = False
    attributes_lost = 0

    def __init__(self, provider: "KeepableProvider", sandbox_id: str) -> None:
        super().__init__(provider, sandbox_id)
        self.files = provider.disk.setdefault(sandbox_id, [])
        self.script: bytes | None = None

    @property
    def keeper(self) -> Any:
        return FakeKeeper(self)


class KeepableProvider(FakeProvider):
    def __init__(self, **options: Any) -> None:
        super().__init__(pause=True, snapshots=True, **options)
        self.disk: dict[str, list[bytes]] = {}

    async def create(self, spec: SandboxSpec, sandbox_id: str) -> KeepableSandbox:
        self.created.append((spec, sandbox_id))
        made = KeepableSandbox(self, sandbox_id)
        self.live[sandbox_id] = made
        return made

    async def forget(self, sandbox_id: str) -> None:
        assert sandbox_id not in self.live
        await super().forget(sandbox_id)
        self.disk.pop(sandbox_id, None)
