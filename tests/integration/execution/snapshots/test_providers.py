"""The sandboxes of each provider that offers it can be put away, by the same door."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import Sandbox, SandboxSpec
from intramuros.execution.sandbox.keeping import Keepable, Keeper
from intramuros.execution.sandbox.providers import open_provider
from tests.integration.execution.runtimes import require
from tests.integration.execution.snapshots.rig import bash

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


def keeper(sandbox: Sandbox) -> Keeper:
    assert isinstance(sandbox, Keepable)
    return sandbox.keeper


@pytest.mark.parametrize("name", ["bubblewrap", "oci:runc", "oci:crun", "gvisor"])
async def test_files_and_shell_come_back(name: str, tmp_path: Path) -> None:
    provider = open_provider(require(name), tmp_path / "state")
    try:
        await provider.start()
        assert provider.capabilities.snapshots
        one = await provider.create(SandboxSpec(), f"one-{name[-4:]}")
        await bash(
            one,
            "mkdir -p d ~/h; cd d; echo hi > f; ln f g; truncate -s 9M s; mkfifo p; chmod 640 g;"
            " ln -s ../x l; echo t > /tmp/t; chmod 000 /tmp/t; echo h > ~/h/f; touch -d @9 s;"
            " X='a b'; f() { echo f; }; sleep 543 & sleep 0.1",
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
        assert await keeper(two).adopt(told.script) == []
        said = await bash(
            two,
            'basename "$PWD"; cat g; [ f -ef g ] && echo one; echo "$X"; f; [ -p p ] && echo pipe;'
            " readlink l; stat -c '%a %Y %s' s; stat -c %a f /tmp/t; cat ~/h/f",
        )
        assert said.split("\n")[:7] == ["d", "hi", "one", "a b", "f", "pipe", "../x"]
        assert said.split("\n")[7:] == ["644 9 9437184", "640", "0", "h"]
    finally:
        await provider.aclose()
