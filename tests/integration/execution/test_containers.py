"""Containers as sandboxes, made for real by each runtime that this host has."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from intramuros.execution.conformance.battery import Battery
from intramuros.execution.egress.netns import Joiner
from intramuros.execution.sandbox.base import (
    MIB,
    Limits,
    Mount,
    Provider,
    SandboxBusy,
    SandboxGone,
    SandboxSpec,
    SandboxUnavailable,
)
from intramuros.execution.sandbox.cgroups import find_groups
from intramuros.execution.sandbox.devices import find_gpus
from intramuros.execution.sandbox.oci.images import Images
from intramuros.execution.sandbox.oci.provider import GvisorProvider
from intramuros.execution.sandbox.providers import open_provider
from intramuros.execution.sandbox.spares import Sparing
from tests.drives import Workspace
from tests.fakes.oci_image import Builder, entry, layer, small_system
from tests.integration.execution.runtimes import CONTAINERS, require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


@pytest.fixture(params=CONTAINERS)
def name(request: pytest.FixtureRequest) -> str:
    return require(request.param)


@pytest.fixture
async def provider(name: str, tmp_path: Path) -> AsyncIterator[Provider]:
    made = open_provider(name, tmp_path / "state")
    await made.start()
    yield made
    await made.aclose()


async def test_every_check_of_the_battery_passes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = secrets.token_hex(8)
    monkeypatch.setenv("INTRAMUROS_TEST_SECRET", canary)
    provider = open_provider(name, tmp_path / "state")
    await provider.start()
    try:
        found = [one async for one in Battery(provider, canary).run()]
    finally:
        await provider.aclose()
    assert [one for one in found if not one.passed] == []
    assert len(found) > 140


async def test_neither_of_its_two_ids_is_the_host_s_root(provider: Provider) -> None:
    ids = set()
    for _ in range(2):
        sandbox = await provider.create(SandboxSpec(), fresh())
        pid = sandbox.host_pid  # type: ignore[attr-defined]  # of ours alone
        status = await anyio.Path(f"/proc/{pid}/status").read_text()
        ids |= set(status.split("Uid:")[1].splitlines()[0].split())
        mapped = await anyio.Path(f"/proc/{pid}/uid_map").read_text()
        outside = {int(line.split()[1]) for line in mapped.splitlines()}
        assert len(outside) == 2
        if os.geteuid() == 0:
            assert 0 not in outside
    assert "0" not in ids
    if provider.capabilities.distinct_uids:
        assert len(ids) == 2


async def test_what_is_written_stays_and_nothing_else(provider: Provider, tmp_path: Path) -> None:
    name = fresh()
    sandbox = await provider.create(SandboxSpec(), name)
    assert bool(_groups(name)) == bool(find_groups().parents)
    with pytest.raises(SandboxBusy):
        await provider.create(SandboxSpec(), name)
    await sandbox.call("write", {"file_path": "kept", "content": "text"})
    assert (await sandbox.exec(["/bin/sh", "-c", "sleep 600 & echo >/tmp/gone"])).exit_code == 0
    await sandbox.destroy()
    assert not sandbox.alive
    with pytest.raises(SandboxGone):
        await sandbox.call("bash", {"command": "true"})
    assert list((tmp_path / "state/bundles").iterdir()) == []
    assert _groups(name) == []
    again = await provider.create(SandboxSpec(), name)
    seen = await again.call("bash", {"command": "cat kept; ls /tmp"})
    assert seen.content[0]["text"] == "text"
    await again.destroy()
    await provider.forget(name)
    assert list((tmp_path / "state/workspaces").iterdir()) == []


async def test_mounts_limits_and_environment(provider: Provider, tmp_path: Path) -> None:
    for part in ("ro", "rw", "skills"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "file").write_text(part)
        (tmp_path / part).chmod(0o777)  # so that nothing but the mount keeps it from being written
    (tmp_path / "one").write_text("single")
    (tmp_path / "one").chmod(0o666)
    spec = SandboxSpec(
        limits=Limits(disk_bytes=8 * MIB, open_files=99),
        mounts=(
            Mount(tmp_path / "ro", "/mnt/ro"),
            Mount(tmp_path / "rw", "/mnt/rw", read_only=False, owned=True),
            Mount(tmp_path / "skills", "/workspace/skills"),
            Mount(tmp_path / "one", "/mnt/one"),
        ),
        environment={"TOKEN": "placeholder"},
    )
    sandbox = await provider.create(spec, fresh())
    script = "cat /mnt/*/file skills/file /mnt/one; echo $TOKEN; ulimit -n; echo x >/mnt/rw/new"
    seen = await sandbox.exec(["/bin/sh", "-c", script])
    assert seen.stdout.decode() == "rorwskillssingleplaceholder\n99\n"
    assert (tmp_path / "rw/new").read_text() == "x\n"
    for place in ("/mnt/ro/x", "/workspace/skills/x", "/mnt/one"):
        refused = await sandbox.exec(["/bin/sh", "-c", f"echo x >{place}"])
        assert b"ead-only" in refused.stderr, place
    large = await sandbox.exec(["/bin/sh", "-c", "head -c 9000000 /dev/zero >big"])
    assert large.exit_code != 0
    size = await sandbox.exec(["/usr/bin/stat", "-c", "%s", "big"])
    assert int(size.stdout) <= 8 * MIB


async def test_what_it_connects_to_arrives_at_sockets_held_outside(provider: Provider) -> None:
    sandbox = await provider.create(SandboxSpec(egress="names"), fresh())
    network = sandbox.network()
    joiner = Joiner()
    try:
        opened = await joiner.open(network, [80])
    finally:
        os.close(network)
        joiner.close()
    listener = opened.streams[80]
    connect = (
        "import socket; s = socket.create_connection(('198.18.0.9', 80), 5);"
        " s.sendall(b'hello'); print(s.recv(9).decode())"
    )
    answers: list[str] = []

    async def visit() -> None:
        done = await sandbox.exec(["python3", "-c", connect])
        answers.append((done.stdout or done.stderr).decode())

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(visit)
            with anyio.fail_after(60):
                await anyio.wait_readable(listener)
            visitor, _ = listener.accept()
            with visitor:
                await anyio.wait_readable(visitor)
                assert visitor.recv(9) == b"hello"
                assert visitor.getsockname() == ("198.18.0.9", 80)
                visitor.sendall(b"outside")
    finally:
        opened.close()
    assert answers == ["outside\n"]
    # Nothing else has become reachable by that.
    elsewhere = "import socket; socket.create_connection(('192.0.2.1', 80), 5)"
    refused = await sandbox.exec(["python3", "-c", elsewhere])
    assert b"unreachable" in refused.stderr


_WORKER = """
import sys
from pathlib import Path
import anyio
from intramuros.execution.sandbox.base import SandboxSpec
from intramuros.execution.sandbox.providers import open_provider
from intramuros.execution.sandbox.spares import Sparing

async def main():
    provider = open_provider(sys.argv[1], Path(sys.argv[2]))
    sandbox = await provider.create(SandboxSpec(), sys.argv[3])
    await sandbox.call("bash", {"command": "echo kept >file; setsid sleep 600 >/dev/null 2>&1 &"})
    print(sandbox.host_pid, flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


async def test_a_killed_worker_s_containers_die_and_are_swept(name: str, tmp_path: Path) -> None:
    session = fresh()
    state = tmp_path / "state"
    worker = subprocess.Popen(  # noqa: ASYNC220 - a process to kill
        [sys.executable, "-c", _WORKER, name, str(state), session],
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert worker.stdout is not None
        with worker.stdout as said:
            lines = (line for line in iter(said.readline, "") if line.strip().isdigit())
            pid = int(next(lines))
            pidfd = os.pidfd_open(pid)
            worker.send_signal(signal.SIGKILL)
            worker.wait(60)
        with anyio.fail_after(60):
            await anyio.wait_readable(pidfd)
        os.close(pidfd)
    finally:
        worker.kill()
        worker.wait(60)
    provider = open_provider(name, state)
    try:
        assert await provider.sweep() == [session]
        assert list((state / "bundles").iterdir()) == []
        assert _groups(session) == []
        sandbox = await provider.create(SandboxSpec(), session)
        seen = await sandbox.call("bash", {"command": "cat file"})
        assert seen.content[0]["text"] == "kept"
    finally:
        await provider.aclose()


async def test_a_gvisor_that_does_not_work_is_refused_at_the_start(tmp_path: Path) -> None:
    broken = tmp_path / "runsc"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo runsc version 0.0 && exit\n'
        "echo 'starting: no such platform' >&2; exit 1\n"
    )
    broken.chmod(0o755)
    provider = GvisorProvider(tmp_path / "state", str(broken))
    with pytest.raises(SandboxUnavailable, match="no such platform") as caught:
        await provider.start()
    assert "July 2024" in caught.value.fix
    assert list((tmp_path / "state/workspaces").iterdir()) == []


def fresh() -> str:
    """Return an id that no other test on this host has: control groups are named by it."""
    return f"test-{secrets.token_hex(6)}"


def _groups(name: str) -> list[Path]:
    parents = find_groups().parents.values()
    return [group for parent in parents for group in parent.glob(f"intramuros-*-{name}")]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory with a shell and a few programs, but neither Python nor bash."""
    folder = tmp_path_factory.mktemp("image")
    builder = Builder()
    more = layer(
        [
            entry("etc/motd", b"hello from the image"),
            entry("etc/shadow", b"secret", mode=0o640),
            entry("home/agent/mine", b"x"),
            entry("srv/.wh.nothing"),
        ]
    )
    builder.image(small_system(), more, Env=["PATH=/bin"])
    archive = builder.archive(folder / "image.tar")
    return Images(folder / "images").open(f"oci-archive:{archive}").rootfs


async def test_an_image_without_python_or_bash_has_all_tools(
    provider: Provider, image: Path, tmp_path: Path
) -> None:
    (tmp_path / "mounted").mkdir()
    (tmp_path / "mounted/file").write_text("m")
    spec = SandboxSpec(rootfs=image, mounts=(Mount(tmp_path / "mounted", "/mnt/x"),))
    sandbox = await provider.create(spec, fresh())

    async def said(tool: str, **arguments: object) -> str:
        return str((await sandbox.call(tool, arguments)).content[0]["text"])

    assert "5." in await said("bash", command="echo $BASH_VERSION")
    assert await said("bash", command="x=kept; cd /etc; cat motd") == "hello from the image"
    assert await said("bash", command="echo $x $PWD; cat /mnt/x/file") == "kept /etc\nm"
    assert "ermission denied" in await said("bash", command="cat /etc/shadow")
    assert "No such file" in await said("bash", command="ls /usr/share")
    refused = await said("bash", command="echo >/etc/motd || mkdir /etc/x || echo refused")
    assert refused.endswith("refused")
    assert (await sandbox.exec(["python3", "-c", "import ssl, sqlite3"])).exit_code == 0
    await sandbox.call("write", {"file_path": "a.txt", "content": "needle"})
    assert "a.txt:1:needle" in await said("grep", pattern="needle")
    assert "needle" in await said("read", file_path="a.txt")
    # Two sandboxes of one image, and the image as it was.
    other = await provider.create(spec, fresh())
    assert (await other.exec(["cat", "/etc/motd"])).stdout == b"hello from the image"
    assert (image / "etc/motd").read_bytes() == b"hello from the image"


async def test_an_image_without_a_shell_is_refused(provider: Provider, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SandboxUnavailable, match="has no /bin/sh"):
        await provider.create(SandboxSpec(rootfs=tmp_path / "empty"), fresh())
    assert list((tmp_path / "state/bundles").iterdir()) == []


async def test_devices_are_shown_where_the_provider_can(provider: Provider, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a device file to stand for a GPU")
    device = Path("/dev") / f"nvidia{secrets.randbelow(1000) + 1000}"
    os.mknod(device, 0o20666, os.makedev(1, 5))  # that of /dev/zero
    try:
        device.chmod(0o666)
        spec = SandboxSpec(devices=find_gpus([str(device)]))
        if not provider.capabilities.gpu:
            with pytest.raises(SandboxUnavailable, match="cannot have devices"):
                await provider.create(spec, fresh())
            return
        sandbox = await provider.create(spec, fresh())
        read = f"import os; print(os.read(os.open('{device}', os.O_RDWR), 3))"
        done = await sandbox.exec(["python3", "-c", read])
        assert done.stdout == b"b'\\x00\\x00\\x00'\n", done.stderr
        plain = await provider.create(SandboxSpec(), fresh())
        assert (await plain.exec(["ls", str(device)])).exit_code != 0
    finally:
        device.unlink()


async def test_a_spare_becomes_a_session_s_container(provider: Provider, tmp_path: Path) -> None:
    assert isinstance(provider, Sparing)
    spec = SandboxSpec()
    spare = await provider.prepare(spec)
    mounted = SandboxSpec(mounts=(Mount(tmp_path, "/mnt/x"),))
    assert await provider.adopt(spare, mounted, fresh()) is None
    adopted = await provider.adopt(spare, SandboxSpec(environment={"A": "b"}), fresh())
    assert adopted is not None
    seen = await adopted.call("bash", {"command": "echo $A >file; cat file"})
    assert seen.content[0]["text"] == "b"
    kept = Workspace(tmp_path / "state/workspaces", adopted.sandbox_id, "file")
    assert kept.read_text() == "b\n"
    await provider.sweep()
    assert (await adopted.call("bash", {"command": "echo still"})).content[0]["text"] == "still"
    await adopted.destroy()
    assert list((tmp_path / "state/bundles").iterdir()) == []
    left = await provider.prepare(spec)
    await left.shell.destroy(keep_workspace=False)
    assert list((tmp_path / "state/bundles").iterdir()) == []
