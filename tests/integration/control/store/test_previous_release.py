"""A server of the release before and one of this release on one PostgreSQL, as in an upgrade.

The one of before is started first and serves on while the other migrates beneath it.
"""

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from benchmarks.lines import connected
from benchmarks.models import timed_model
from benchmarks.overhead import make_sessions, message
from typer.testing import CliRunner

from intramuros.cli.main import app
from tests.postgres import Cluster
from tests.wire import host
from tests.wire.host import ROOT, Server, running

pytestmark = pytest.mark.anyio

# What an installation may be upgraded from: the last commit before the newest migrations.
PREVIOUS: Final = "db906cbdf72544189590246e2374c762ac1ba562"
CALLS: Final = 8


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The release before, taken out of the history."""
    packed = subprocess.run(
        ["git", "-C", str(ROOT), "archive", PREVIOUS, "src", "tests"],
        capture_output=True,
        check=False,
    )
    if packed.returncode:
        pytest.skip(f"the history here does not reach {PREVIOUS[:7]}: no upgrade was tested")
    there = tmp_path / "before"
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as bundle:
        bundle.extractall(there, filter="data")
    return there


@pytest.fixture
def bare(cluster: Cluster) -> Iterator[str]:
    """A database without a table."""
    yield cluster.bare("upgrade")
    cluster.drop_bare("upgrade")


async def drive(session_id: str, *servers: Server) -> int:
    """Have one turn; the first server streams, and all take turns in taking the answers."""
    path = f"/v1/sessions/{session_id}/events"
    calls = 0
    async with connected(servers[0].base_url, servers[0].api_key) as window:
        events = window.events(f"{path}/stream?beta=true")
        await _post(servers[0], path, message("go"))
        async for event in events:
            if event["type"] == "agent.custom_tool_use":
                calls += 1
                here = servers[calls % len(servers)]
                await _post(here, path, answer(event["id"]))
            elif _over(event):
                return calls
    raise AssertionError("the stream ended before the turn did")


def answer(use_id: str) -> bytes:
    content = [{"type": "text", "text": "here"}]
    given = {"type": "user.custom_tool_result", "custom_tool_use_id": use_id, "content": content}
    return json.dumps({"events": [given]}).encode()


def _over(event: dict[str, Any]) -> bool:
    if event["type"] != "session.status_idle":
        return False
    return bool(event["stop_reason"]["type"] != "requires_action")


async def _post(server: Server, path: str, body: bytes) -> None:
    async with connected(server.base_url, server.api_key) as door:
        await door.post(f"{path}?beta=true", body)


@pytest.mark.timeout(300)
async def test_both_releases_serve_the_same_sessions(
    before: Path,
    bare: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data_dir = tmp_path / "data"
    turns: dict[str, int] = {}

    async def turn(session_id: str, *servers: Server) -> None:
        turns[session_id] = await drive(session_id, *servers)

    with timed_model(times=CALLS, think_s=0.2) as model_url:
        settings = {"model_base_url": model_url, "database_url": bare}
        monkeypatch.setattr(host, "ROOT", before)
        with running(data_dir, **settings) as old:
            first = await make_sessions(old, 3)
            async with anyio.create_task_group() as group:
                for session_id in first:
                    group.start_soon(turn, session_id, old)
                # In the middle of their turns the tables change beneath them.
                monkeypatch.setattr(host, "ROOT", ROOT)
                upgraded = running(data_dir, **settings)
                new = await anyio.to_thread.run_sync(upgraded.__enter__)
            try:
                second = await make_sessions(old, 2) + await make_sessions(new, 2)
                third = await make_sessions(old, 3)
                async with anyio.create_task_group() as group:
                    for session_id in second:
                        group.start_soon(turn, session_id, old, new)
                async with anyio.create_task_group() as group:
                    for session_id in third:
                        group.start_soon(turn, session_id, new)
                    await anyio.sleep(0.4)
                    old.process.kill()  # what it had begun is the other's
            finally:
                await anyio.to_thread.run_sync(upgraded.__exit__, None, None, None)
    assert set(turns.values()) == {CALLS}
    assert len(turns) == 10
    flags = ["--database-url", bare, "--data-dir", str(data_dir)]
    checked = await anyio.to_thread.run_sync(
        lambda: CliRunner().invoke(app, ["db", "check", "--deep", *flags])
    )
    assert checked.exit_code == 0, checked.output
    assert "the logs of 10 sessions have no gap" in checked.output
