"""The provider that isolates nothing: its tools, and that nobody takes it for more than it is."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from intramuros.execution.conformance.battery import Battery, command_lines
from intramuros.execution.sandbox.base import Mount, SandboxError, SandboxSpec
from intramuros.execution.sandbox.process import ProcessProvider

pytestmark = pytest.mark.anyio


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[ProcessProvider]:
    made = ProcessProvider(tmp_path / "state")
    await made.start()
    yield made
    await made.aclose()


def fresh() -> str:
    """Return an id that no other test on this host has: control groups are named by it."""
    return f"test-{secrets.token_hex(6)}"


async def test_the_tools_are_the_same(provider: ProcessProvider, tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads/given").write_text("for you")
    (tmp_path / "skills").mkdir()
    mounts = (
        Mount(tmp_path / "uploads", "/mnt/session/uploads"),
        Mount(tmp_path / "skills", "/workspace/skills"),
    )
    sandbox = await provider.create(SandboxSpec(mounts=mounts), fresh())

    async def said(tool: str, **arguments: object) -> str:
        return str((await sandbox.call(tool, arguments)).content[0]["text"])

    assert await sandbox.call("write", {"file_path": "/workspace/a.py", "content": "x = 1\n"})
    assert "x = 1" in await said("read", file_path="a.py")
    await sandbox.call("edit", {"file_path": "a.py", "old_string": "1", "new_string": "2"})
    assert "a.py" in await said("glob", pattern="*.py", path="/workspace")
    assert "x = 2" in await said("grep", pattern="x = .", path="/workspace")
    assert await said("read", file_path="/mnt/session/uploads/given") == "for you"
    assert "read-only" in await said("write", file_path="/mnt/session/uploads/new", content="x")
    assert "outside" in await said("read", file_path="/etc/passwd")
    assert await said("bash", command="cat a.py; echo $HOME; ls -d skills") == (
        f"x = 2\n{tmp_path / 'state/workspaces' / sandbox.sandbox_id}\nskills"
    )
    assert (await sandbox.exec(["/bin/sh", "-c", "exit 3"])).exit_code == 3


async def test_what_it_started_ends_with_it(provider: ProcessProvider) -> None:
    sandbox = await provider.create(SandboxSpec(), fresh())
    marker = secrets.token_hex(8)
    daemon = f"(setsid nohup bash -c 'exec -a {marker} sleep 600' >/dev/null 2>&1 &); sleep 0.1"
    await sandbox.call("bash", {"command": daemon})
    assert marker in command_lines()
    await sandbox.destroy()
    with anyio.fail_after(60):
        while marker in command_lines():  # noqa: ASYNC110 - bounded
            await anyio.sleep(0.01)


async def test_the_battery_does_not_pass_it(provider: ProcessProvider) -> None:
    found = [one async for one in Battery(provider, "x").run()]
    assert [one.name for one in found if not one.passed] == ["isolation"]
    assert "the shell after a pause" in {one.name for one in found}


async def test_the_host_s_network_is_not_taken_for_its_own(provider: ProcessProvider) -> None:
    sandbox = await provider.create(SandboxSpec(), fresh())
    with pytest.raises(SandboxError, match="no network of its own"):
        sandbox.network()
