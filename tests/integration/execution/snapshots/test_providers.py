"""Every provider's sandboxes can be put away, by the same door."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import Sandbox, SandboxSpec
from intramuros.execution.sandbox.keeping import Keepable, Keeper
from intramuros.execution.sandbox.providers import open_provider
from tests.integration.execution.runtimes import CONTAINERS, require
from tests.integration.execution.snapshots.rig import bash

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]


def keeper(sandbox: Sandbox) -> Keeper:
    assert isinstance(sandbox, Keepable)
    return sandbox.keeper


@pytest.mark.parametrize("name", ["bubblewrap", *CONTAINERS, "process"])
async def test_files_and_shell_come_back(name: str, tmp_path: Path) -> None:
    provider = open_provider(require(name), tmp_path / "state")
    await provider.start()
    assert provider.capabilities.snapshots
    try:
        one = await provider.create(SandboxSpec(), f"one-{name[-4:]}")
        await bash(
            one,
            "mkdir d; cd d; echo hi > f; ln f g; truncate -s 9M s; X='a b'; f() { echo f; };"
            " sleep 543 & sleep 0.1",
        )
        told = await keeper(one).tell()
        kept = keeper(one)
        pieces = [piece async for piece in kept.save()]
        assert any("sleep 543" in process.command for process in kept.facts.processes)
        assert sum(map(len, pieces)) < 100_000
        assert await bash(one, "jobs -p | wc -l") == "1"
        await one.destroy(keep_workspace=False)
        two = await provider.create(SandboxSpec(), f"two-{name[-4:]}")

        async def stored() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        assert await keeper(two).load(stored()) == 0
        assert told.script is not None
        assert [line for line in await keeper(two).adopt(told.script) if "cd:" not in line] == []
        if name == "process":
            await bash(two, "cd d")  # its workspace is another directory of the host
        said = await bash(two, 'basename "$PWD"; cat g; [ f -ef g ] && echo one; echo "$X"; f')
        assert said.split("\n") == ["d", "hi", "one", "a b", "f"]
    finally:
        await provider.aclose()
