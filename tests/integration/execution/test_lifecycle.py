"""Create, pause, destroy, and what is left when a worker dies."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from intramuros.execution.sandbox import bubblewrap, processes
from intramuros.execution.sandbox.base import (
    MIB,
    Limits,
    Mount,
    SandboxBusy,
    SandboxError,
    SandboxGone,
    SandboxPaused,
    SandboxSpec,
)
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.cgroups import find_groups
from intramuros.execution.sandbox.live import LiveSandbox
from intramuros.execution.sandbox.records import identify
from intramuros.execution.sandbox.rootfs import Python
from intramuros.kernel.errors import OperatorError

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


def said(outcome) -> str:
    return outcome.content[0]["text"]


async def until(condition, within_s: float = 60.0) -> None:
    with anyio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - what we wait for raises no event
            await anyio.sleep(0.01)


def groups_of(pid: int, name: str) -> list[Path]:
    parents = set(find_groups().parents.values())
    return [path for parent in parents for path in parent.glob(f"intramuros-*-{pid}-*-{name}")]


async def test_a_workspace_outlives_its_sandbox_and_the_shell_does_not(
    provider: BubblewrapProvider,
) -> None:
    first = await provider.create(SandboxSpec(), "sesn_1")
    await first.call("bash", {"command": "x=1; mkdir -p a; echo kept >a/f; chmod 000 a"})
    await first.destroy()
    assert not first.alive
    with pytest.raises(SandboxGone):
        await first.call("bash", {"command": "true"})
    second = await provider.create(SandboxSpec(), "sesn_1")
    outcome = await second.call("bash", {"command": "chmod 700 a; cat a/f; echo x=$x"})
    assert said(outcome) == "kept\nx="


async def test_an_id_is_live_once(provider: BubblewrapProvider) -> None:
    await provider.create(SandboxSpec(), "sesn_1")
    with pytest.raises(SandboxBusy):
        await provider.create(SandboxSpec(), "sesn_1")
    with pytest.raises(SandboxBusy):
        await provider.forget("sesn_1")


async def test_forgetting_removes_even_what_the_agent_closed(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    sandbox = await provider.create(SandboxSpec(), "sesn_1")
    await sandbox.call("bash", {"command": "mkdir -p a/b/c; touch a/b/c/f; chmod 000 a/b a"})
    await sandbox.destroy(keep_workspace=False)
    assert list((tmp_path / "state/workspaces").iterdir()) == []
    assert list((tmp_path / "state/sandboxes").iterdir()) == []


async def test_nothing_is_left_after_destroy(provider: BubblewrapProvider) -> None:
    sandbox = await provider.create(SandboxSpec(), "sesn_left")
    assert len(groups_of(os.getpid(), "sesn_left")) == len(set(find_groups().parents.values()))
    await sandbox.call("bash", {"command": "sleep 600 & setsid sleep 601 & disown -a"})
    below = processes.descendants(sandbox.host_pid, processes.parents())
    assert len(below) >= 4
    await sandbox.destroy()
    alive = [pid for pid in [sandbox.host_pid, *below] if identify(pid)]
    assert alive == []
    assert groups_of(os.getpid(), "sesn_left") == []


async def test_pausing_stops_time_inside_and_resuming_goes_on(sandbox: LiveSandbox) -> None:
    await sandbox.call("bash", {"command": "(while :; do echo >>n; sleep 0.01; done) & sleep 0.1"})
    await sandbox.pause()
    await sandbox.pause()
    with pytest.raises(SandboxPaused):
        await sandbox.call("read", {"file_path": "n"})
    inner = processes.descendants(sandbox.host_pid, processes.parents())
    before = [_ticks(pid) for pid in inner]
    await anyio.sleep(0.2)
    assert [_ticks(pid) for pid in inner] == before
    await sandbox.resume()
    first = int(said(await sandbox.call("bash", {"command": "wc -l <n"})))
    await anyio.sleep(0.2)
    assert int(said(await sandbox.call("bash", {"command": "wc -l <n"}))) > first


def _ticks(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11]


async def test_a_paused_sandbox_can_be_destroyed(sandbox: LiveSandbox) -> None:
    await sandbox.pause()
    await sandbox.destroy()
    assert identify(sandbox.host_pid) is None


async def test_killed_from_outside_it_is_gone_and_says_so(sandbox: LiveSandbox) -> None:
    inner = processes.first_child(sandbox.host_pid)
    assert inner
    os.kill(inner, signal.SIGKILL)
    with pytest.raises(SandboxGone):
        await sandbox.call("bash", {"command": "sleep 5"})
    assert not sandbox.alive
    await sandbox.destroy()


async def test_a_creation_given_up_leaves_nothing(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    await (await provider.create(SandboxSpec(), "warm")).destroy()
    before = set(processes.parents())
    for step in range(12):
        with anyio.move_on_after(step * 0.003):
            await (await provider.create(SandboxSpec(), f"cut{step}")).destroy()
    await until(lambda: not _ours(before))
    assert list((tmp_path / "state/sandboxes").iterdir()) == []
    assert groups_of(os.getpid(), "cut*") == []


def _ours(before: set[int]) -> list[int]:
    """New processes below this one; others come and go on any machine."""
    mine = processes.descendants(os.getpid(), processes.parents())
    return [pid for pid in mine if pid not in before]


async def test_two_creations_of_one_id_do_not_meet(provider: BubblewrapProvider) -> None:
    outcomes: list[str] = []

    async def create() -> None:
        try:
            await provider.create(SandboxSpec(), "sesn_1")
            outcomes.append("created")
        except SandboxBusy:
            outcomes.append("busy")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(create)
        tasks.start_soon(create)
    assert sorted(outcomes) == ["busy", "created"]


async def test_one_that_died_unseen_is_created_anew(provider: BubblewrapProvider) -> None:
    first = await provider.create(SandboxSpec(), "sesn_1")
    inner = processes.first_child(first.host_pid)
    assert inner
    os.kill(inner, signal.SIGKILL)
    await until(lambda: not first.alive)
    second = await provider.create(SandboxSpec(), "sesn_1")
    await first.destroy()
    assert said(await second.call("bash", {"command": "echo alive"})) == "alive"
    with pytest.raises(SandboxBusy):
        await provider.create(SandboxSpec(), "sesn_1")


async def test_a_launcher_that_dies_takes_its_sandboxes_and_comes_back(
    provider: BubblewrapProvider,
) -> None:
    first = await provider.create(SandboxSpec(), "sesn_1")
    os.kill(processes.parents()[first.host_pid], signal.SIGKILL)
    await until(lambda: not first.alive)
    second = await provider.create(SandboxSpec(), "sesn_1")
    assert said(await second.call("bash", {"command": "echo alive"})) == "alive"


async def test_a_python_outside_usr_is_shown_to_the_agent(
    tmp_path: Path, working_host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = Path(sys.base_prefix)
    monkeypatch.setattr(
        bubblewrap, "find_python", lambda: Python("/opt/python/bin/python3", prefix)
    )
    provider = BubblewrapProvider(tmp_path)
    sandbox = await provider.create(SandboxSpec(), "sesn_1")
    done = await sandbox.exec(["python3", "-c", "import sys, json; print(sys.executable)"])
    assert done.stdout == b"/opt/python/bin/python3\n"
    await provider.aclose()


async def test_a_cancelled_call_stops_its_command(sandbox: LiveSandbox) -> None:
    with anyio.move_on_after(0.3):
        await sandbox.call("bash", {"command": "sleep 600"})
    with anyio.move_on_after(0.3):
        await sandbox.exec(["/bin/sleep", "601"])

    def sleeping() -> bool:
        found = processes.descendants(sandbox.host_pid, processes.parents())
        return any("sleep" in _name(pid) for pid in found)

    await until(lambda: not sleeping())
    outcome = await sandbox.call("bash", {"command": "true"})
    assert said(outcome) == "bash: bash session terminated; restart required"


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""  # it ended meanwhile


async def test_calls_overlap(sandbox: LiveSandbox) -> None:
    found = []
    async with anyio.create_task_group() as tasks:

        async def slow() -> None:
            command = "until test -e go; do sleep 0.05; done; echo slow"
            found.append(said(await sandbox.call("bash", {"command": command})))

        async def fast(number: int) -> None:
            await sandbox.call("write", {"file_path": f"f{number}", "content": str(number)})
            found.append(said(await sandbox.call("read", {"file_path": f"f{number}"})))

        tasks.start_soon(slow)
        async with anyio.create_task_group() as others:
            for number in range(10):
                others.start_soon(fast, number)
        await sandbox.call("write", {"file_path": "go", "content": ""})
    assert sorted(found[:10]) == sorted(map(str, range(10)))
    assert found[10] == "slow"


async def test_a_command_that_fills_the_disk_is_stopped(undriven: BubblewrapProvider) -> None:
    spec = SandboxSpec(limits=Limits(disk_bytes=8 * MIB))
    sandbox = await undriven.create(spec, "sesn_disk")
    one = await sandbox.exec(["/bin/sh", "-c", "head -c 20000000 /dev/zero >one"])
    assert one.exit_code != 0
    fill = "i=0; while :; do head -c 1000000 /dev/zero >f$i; i=$((i+1)); sleep 0.1; done"
    outcome = await sandbox.call("bash", {"command": fill})
    assert outcome.is_error
    assert "over its disk quota" in said(outcome)
    outcome = await sandbox.call("write", {"file_path": "x", "content": "x"})
    assert "over its disk quota" in said(outcome)
    await sandbox.call("bash", {"restart": True})
    await sandbox.call("bash", {"command": "rm -f f* one"})
    await anyio.sleep(2.1)  # what was measured is trusted for two seconds
    assert not (await sandbox.call("write", {"file_path": "x", "content": "x"})).is_error


async def test_mounts_show_data_and_keep_it_read_only(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "f.csv").write_text("a,b\n")
    single = tmp_path / "one.txt"
    single.write_text("one")
    for path in (data, data / "f.csv", single):
        path.chmod(0o755)
    mounts = (Mount(data, "/mnt/data"), Mount(single, "/mnt/one.txt"))
    sandbox = await provider.create(SandboxSpec(mounts=mounts), "sesn_m")
    assert said(await sandbox.call("read", {"file_path": "/mnt/data/f.csv"})) == "a,b\n"
    assert said(await sandbox.call("read", {"file_path": "/mnt/one.txt"})) == "one"
    refused = await sandbox.call("write", {"file_path": "/mnt/data/x", "content": "x"})
    assert said(refused) == "write: /mnt/data/x is inside read-only directory /mnt/data"
    assert (await sandbox.call("bash", {"command": "echo x >/mnt/data/x"})).is_error
    for target in ("/proc/x", "/etc", "mnt", "/mnt/../etc", "/workspace", "/"):
        with pytest.raises(SandboxError):
            await provider.create(SandboxSpec(mounts=(Mount(data, target),)), "sesn_n")
    with pytest.raises(SandboxError, match="does not exist"):
        await provider.create(SandboxSpec(mounts=(Mount(tmp_path / "no", "/mnt/x"),)), "sesn_n")


async def test_placeholders_enter_and_vendor_variables_do_not(
    provider: BubblewrapProvider,
) -> None:
    spec = SandboxSpec(environment={"TOKEN": "placeholder-1", "ANTHROPIC_API_KEY": "x"})
    sandbox = await provider.create(spec, "sesn_e")
    outcome = await sandbox.call("bash", {"command": "echo $TOKEN $ANTHROPIC_API_KEY"})
    assert said(outcome) == "placeholder-1"


async def test_a_root_file_system_of_its_own(provider: BubblewrapProvider, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no /usr/bin/python3"):
        await provider.create(SandboxSpec(rootfs=tmp_path), "sesn_r")
    image = await anyio.to_thread.run_sync(make_image, tmp_path / "image")
    sandbox = await provider.create(SandboxSpec(rootfs=image), "sesn_r")
    outcome = await sandbox.call("bash", {"command": "cat /etc/marker; ls /usr; echo x >/usr/x"})
    assert outcome.is_error
    assert said(outcome).startswith("from the image\n")
    assert "Read-only" in said(outcome)


def make_image(root: Path) -> Path:
    """A root directory whose /usr links to nothing of the host: shells and Python, copied."""
    (root / "etc").mkdir(parents=True)
    (root / "etc/marker").write_text("from the image\n")
    (root / "etc/passwd").write_text("image:x:0:0::/:/bin/sh\n")
    for name in ("mnt", "tmp", "usr"):
        (root / name).mkdir()
    version = "python{}.{}".format(*_system_python())
    wanted = ["bin/bash", "bin/cat", "bin/ls", "bin/python3", f"bin/{version}", f"lib/{version}"]
    for name in wanted:
        source, target = Path("/usr") / name, root / "usr" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        ignore = shutil.ignore_patterns("test", "idlelib", "*-packages", "config-*", "tkinter")
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignore, symlinks=True)
        else:
            shutil.copy2(source, target, follow_symlinks=False)
    for library in _libraries(root / "usr"):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library, target)
    for name in ("bin", "lib", "lib64"):
        (root / "usr" / name).mkdir(exist_ok=True)
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    return root


def _system_python() -> tuple[str, str]:
    code = "import sys; print(*sys.version_info[:2])"
    said = subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True, text=True)
    major, minor = said.stdout.split()
    return major, minor


def _libraries(usr: Path) -> set[str]:
    files = [*usr.glob("bin/*"), *usr.glob("lib/python*/lib-dynload/*.so")]
    listed = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True).stdout
    return {word for word in listed.split() if word.startswith("/") and Path(word).is_file()}


WORKER = """
import sys, anyio
from pathlib import Path
from intramuros.execution.sandbox.base import SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.kernel.telemetry import configure

async def main():
    configure(json=True)
    provider = BubblewrapProvider(Path(sys.argv[1]))
    sandbox = await provider.create(SandboxSpec(), "sesn_orphan")
    await sandbox.call("write", {"file_path": "kept", "content": "kept"})
    await sandbox.call("bash", {"command": "setsid sleep 600 & sleep 0"})
    if "freeze" in sys.argv:
        await sandbox.pause()
    print(sandbox.host_pid, flush=True)
    await anyio.sleep(600)

anyio.run(main)
"""


@pytest.mark.parametrize("frozen", [False, True])
async def test_a_killed_worker_leaves_nothing_that_runs(
    provider: BubblewrapProvider, tmp_path: Path, frozen: bool
) -> None:
    argv = [sys.executable, "-c", WORKER, str(tmp_path / "state"), *(["freeze"] if frozen else [])]
    env = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=env) as worker:  # noqa: ASYNC220 - must die without us
        assert worker.stdout
        outer = int(await anyio.to_thread.run_sync(worker.stdout.readline))
        below = processes.descendants(outer, processes.parents())
        with pytest.raises(SandboxBusy, match="worker process"):
            await provider.create(SandboxSpec(), "sesn_orphan")
        # Nobody has to start a worker again for it: the frozen ones die too.
        worker.kill()
    await until(lambda: not any(identify(pid) for pid in [outer, *below]))
    assert await provider.sweep() == ["sesn_orphan"]
    await until(lambda: not any(identify(pid) for pid in [outer, *below]))
    assert groups_of(worker.pid, "sesn_orphan") == []
    again = await provider.create(SandboxSpec(), "sesn_orphan")
    assert said(await again.call("read", {"file_path": "kept"})) == "kept"
    assert await provider.sweep() == []


async def test_groups_of_a_killed_worker_go_even_where_its_records_went_too(
    provider: BubblewrapProvider, tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", WORKER, str(tmp_path / "other")]
    env = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=env) as worker:  # noqa: ASYNC220 - must die without us
        assert worker.stdout
        outer = int(await anyio.to_thread.run_sync(worker.stdout.readline))
        below = processes.descendants(outer, processes.parents())
        await provider.sweep()
        assert len(groups_of(worker.pid, "*")) == len(set(find_groups().parents.values()))
        worker.kill()
    await until(lambda: not any(identify(pid) for pid in [outer, *below]))
    shutil.rmtree(tmp_path / "other/sandboxes")
    assert await provider.sweep() == []
    assert groups_of(worker.pid, "*") == []
