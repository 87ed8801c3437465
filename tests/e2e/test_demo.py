"""The demo as its user runs it, and with programs killed while it runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from intramuros.cli.demo.run import SCRIPTS
from tests.e2e.rig import (
    Command,
    assert_nothing_left,
    eventually,
    kill,
    needs_demo,
    running,
)
from tests.fakes.messages_server import FakeMessages

pytestmark = [needs_demo, pytest.mark.anyio, pytest.mark.timeout(240)]

SLOW_RUN = "sleep 3; python3 audit.py"


def test_the_job_is_done_and_nothing_stays(tmp_path: Path) -> None:
    with running("demo", "--data-dir", tmp_path / "demo") as demo:
        assert demo.wait() == 0, demo.output
    assert "All 7 claims held." in demo.output
    assert "a SCRIPT and no model" in demo.output
    assert not any("✗" in line for line in demo.lines)
    assert not (tmp_path / "demo").exists()
    assert_nothing_left(tmp_path)


Hook = Callable[[], None]


class Provider:
    """A Messages-compatible provider that plays the auditor, and lets a test act in mid-request."""

    def __init__(self, tmp_path: Path, hooks: dict[int, Hook]) -> None:
        script = tmp_path / "auditor.yaml"
        text = (SCRIPTS / "auditor.yaml").read_text()
        script.write_text(text.replace("python3 audit.py", SLOW_RUN))
        self._hooks = hooks
        self._play = FakeMessages.playing(script).policy
        self.fake = FakeMessages(self.policy)
        self.seen: list[int] = []

    async def policy(self, body: dict[str, Any]) -> Any:
        """Answer; before the answer to the n-th turn a hook runs, once."""
        turn = 1 + sum(message["role"] == "assistant" for message in body["messages"])
        self.seen.append(turn)
        hook = self._hooks.pop(turn, None)
        if hook is not None:
            hook()
        return await self._play(body)


async def finish(
    tmp_path: Path, hooks: dict[int, Hook], also: Callable[[Command], None]
) -> Command:
    provider = Provider(tmp_path, hooks)
    async with provider.fake.running() as base_url:
        arguments = ("demo", "--keep", "--data-dir", tmp_path / "demo")
        with running(*arguments, "--model-base-url", base_url, "--model", "claude-x") as demo:
            also(demo)
            assert demo.wait(120) == 0, demo.output
    assert "All 7 claims held." in demo.output
    assert "SCRIPT" not in demo.output
    assert not hooks, f"turns {provider.seen} never came to {list(hooks)}"
    assert_nothing_left(tmp_path)
    return demo


async def test_the_worker_is_killed_in_mid_tool(tmp_path: Path) -> None:
    def strike(demo: Command) -> None:
        demo.until("bash command=sleep 3; python3 audit.py")
        record = tmp_path / "demo" / "worker" / "audit.jsonl"
        eventually(lambda: record.read_text().count('"tool":"bash"') % 2 == 1, 60, "bash runs")
        kill(tmp_path / "demo", "worker")

    demo = await finish(tmp_path, {}, strike)
    assert "worker died" in demo.output


async def test_the_server_is_killed_in_mid_turn(tmp_path: Path) -> None:
    strike = {3: lambda: _kill(tmp_path, "server")}
    demo = await finish(tmp_path, strike, lambda _: None)
    assert "server died" in demo.output


@pytest.mark.parametrize("name", ["edge", "gateway"])
async def test_the_tunnel_is_killed_between_calls(tmp_path: Path, name: str) -> None:
    demo = await finish(tmp_path, {4: lambda: _kill(tmp_path, name)}, lambda _: None)
    assert f"{name} died" in demo.output


def _kill(tmp_path: Path, name: str) -> None:
    kill(tmp_path / "demo", name)
