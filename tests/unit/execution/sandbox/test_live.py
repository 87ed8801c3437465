"""A live sandbox over a played process 1; real ones are in tests/integration/execution."""

import os
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from intramuros.execution.sandbox import processes
from intramuros.execution.sandbox.base import (
    Limits,
    Mount,
    Sandbox,
    SandboxError,
    SandboxGone,
    SandboxPaused,
    SandboxSpec,
)
from intramuros.execution.sandbox.channel import Channel
from intramuros.execution.sandbox.inside.frames import Reader, encode
from intramuros.execution.sandbox.live import Handles, LiveSandbox
from intramuros.execution.sandbox.rootfs import TRUST, TRUSTING, Python

pytestmark = pytest.mark.anyio


class Stage:
    def __init__(self, spec: SandboxSpec, workspace: Path) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.process = subprocess.Popen(["sh", "-c", "sleep 60; true"])
        self.ended: list[tuple[str, bool]] = []
        pidfd = os.pidfd_open(self.process.pid)
        handles = Handles(Channel(ours), pidfd, self.process.pid, None, workspace)
        self.sandbox = LiveSandbox("s1", spec, handles, self.note)
        self.seen: list[dict[str, bytes]] = []

    async def note(self, sandbox_id: str, keep: bool) -> None:
        self.ended.append((sandbox_id, keep))

    async def serve(self, **fields: bytes) -> None:
        """Answer every call with the same fields."""
        reader = Reader()
        while True:
            await anyio.wait_readable(self.theirs)
            data = self.theirs.recv(1 << 16)
            if not data:
                return
            for call in reader.feed(data):
                self.seen.append(call)
                if call["op"] != b"cancel":
                    self.theirs.sendall(encode({"id": call["id"], **fields}))


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    mounts = (Mount(tmp_path, "/mnt/a"), Mount(tmp_path, "/mnt/b", read_only=False))
    environment = {"TOKEN": "placeholder", "ANTHROPIC_API_KEY": "x"}
    made = Stage(SandboxSpec(mounts=mounts, environment=environment), tmp_path)
    yield made
    await made.sandbox.destroy()
    made.process.wait()
    made.theirs.close()


async def test_process_1_is_told_places_and_limits(stage: Stage) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stage.serve)
        await stage.sandbox.configure(Python("/usr/bin/python3"))
        tasks.cancel_scope.cancel()
    [config] = stage.seen
    assert config["roots"] == b"/mnt/a\0/mnt/b"
    assert config["read_only"] == b"/mnt/a"
    assert b"TOKEN=placeholder" in config["env"].split(b"\0")
    assert b"ANTHROPIC" not in config["env"]
    # No group limits memory here, so each process is limited by itself.
    assert int(config["address_space"]) == Limits().memory_bytes


async def test_programs_are_told_whom_to_trust_where_that_differs(tmp_path: Path) -> None:
    spec = SandboxSpec(trust=tmp_path / "bundle.pem", environment={"PIP_CERT": "/mine"})
    made = Stage(spec, tmp_path)
    told = made.sandbox._environment(Python("/usr/bin/python3"))
    assert {told[name] for name in TRUSTING} == {TRUST, "/mine"}
    assert told["PIP_CERT"] == "/mine"
    await made.sandbox.destroy()
    made.process.wait()
    made.theirs.close()


async def test_its_network_is_that_of_its_innermost_process(stage: Stage) -> None:
    with anyio.fail_after(60):
        while processes.first_child(stage.process.pid) is None:  # noqa: ASYNC110 - bounded
            await anyio.sleep(0.005)
    found = stage.sandbox.network()
    try:
        # The stand-in for a sandbox shares the host's network; a real one does not.
        assert os.path.samestat(os.fstat(found), os.stat("/proc/self/ns/net"))  # noqa: PTH116
        assert not os.get_inheritable(found)
    finally:
        os.close(found)


async def test_a_dead_sandbox_has_no_network(stage: Stage) -> None:
    await stage.sandbox.destroy()
    with pytest.raises(SandboxGone):
        stage.sandbox.network()


async def test_a_network_of_somebody_elses_is_not_taken_for_its(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Process 1 ends while it is looked up, and its number goes to another process.
    numbers = [os.getpid(), None]
    monkeypatch.setattr(processes, "first_child", lambda _: numbers.pop(0))
    with pytest.raises(SandboxGone):
        stage.sandbox.network()


async def test_input_that_does_not_fit_never_enters(stage: Stage) -> None:
    sandbox: Sandbox = stage.sandbox
    outcome = await sandbox.call("read", {"path": "x"})
    assert outcome.is_error
    assert outcome.content[0]["text"].startswith("Invalid arguments for function read")
    assert stage.seen == []


async def test_calls_go_in_and_outcomes_come_out(stage: Stage) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: stage.serve(text=b"hi", state=b"done", code=b"0", output=b"out\n"))
        read = await stage.sandbox.call("read", {"file_path": "f"})
        ran = await stage.sandbox.call("bash", {"command": "ls"})
        tasks.cancel_scope.cancel()
    assert read.content == [{"type": "text", "text": "hi"}]
    assert ran.content == [{"type": "text", "text": "out"}]
    assert [call["op"] for call in stage.seen] == [b"tool", b"bash"]


async def test_programs_report_their_end(stage: Stage) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: stage.serve(code=b"137", stdout=b"a", stderr=b"b", timed_out=b"1"))
        done = await stage.sandbox.exec(["ls"], env={"A": "b"})
        with pytest.raises(SandboxError, match="NUL"):
            await stage.sandbox.exec(["a\0b"])
        tasks.cancel_scope.cancel()
    assert (done.exit_code, done.stdout, done.stderr, done.timed_out) == (137, b"a", b"b", True)


async def test_a_program_that_could_not_start_is_an_error(stage: Stage) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: stage.serve(error=b"exec: Resource temporarily unavailable"))
        with pytest.raises(SandboxError, match="temporarily"):
            await stage.sandbox.exec(["ls"])
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("fields", [{}, {"code": b"x", "stdout": b"", "stderr": b""}])
async def test_an_answer_to_another_question_is_an_error(
    stage: Stage, fields: dict[str, bytes]
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: stage.serve(**fields))
        with pytest.raises(SandboxError, match="something else"):
            await stage.sandbox.exec(["ls"])
        tasks.cancel_scope.cancel()


async def test_a_dead_sandbox_raises_itself_not_a_group_of_errors(stage: Stage) -> None:
    stage.theirs.close()
    with pytest.raises(SandboxGone):
        await stage.sandbox.call("bash", {"command": "ls"})
    assert not stage.sandbox.alive
    with pytest.raises(SandboxGone):
        await stage.sandbox.pause()


async def test_without_a_freezer_signals_stop_the_tree(stage: Stage) -> None:
    await stage.sandbox.pause()
    with pytest.raises(SandboxPaused):
        await stage.sandbox.exec(["ls"])
    await stage.sandbox.resume()


async def test_destroying_twice_ends_it_once(stage: Stage) -> None:
    await stage.sandbox.destroy(keep_workspace=False)
    await stage.sandbox.destroy()
    assert stage.ended == [("s1", False)]
    assert stage.process.wait() is not None


async def test_past_its_wall_clock_it_serves_no_more(tmp_path: Path) -> None:
    made = Stage(SandboxSpec(limits=Limits(wall_clock_s=0)), tmp_path)
    with pytest.raises(SandboxGone, match="wall-clock"):
        await made.sandbox.exec(["ls"])
    await made.sandbox.destroy()
    made.process.wait()
    made.theirs.close()
