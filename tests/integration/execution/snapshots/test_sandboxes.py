"""Real sandboxes put away and woken: what stays, what is named, what is refused."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from intramuros.execution.hands import Hands
from intramuros.execution.sandbox import processes
from intramuros.execution.sandbox.base import (
    MIB,
    Limits,
    Mount,
    SandboxError,
    SandboxSpec,
)
from tests.hosts import needs_sandboxes
from tests.integration.execution.snapshots.rig import bash, worker

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
S = "sesn_x"


@pytest.fixture(autouse=True)
def able() -> None:
    needs_sandboxes()


@pytest.fixture
async def a(tmp_path: Path) -> AsyncIterator[Hands]:
    async with worker(tmp_path, name="A", keep=1, shared=True) as hands:
        yield hands


@pytest.fixture
async def b(tmp_path: Path) -> AsyncIterator[Hands]:
    async with worker(tmp_path, name="B", shared=True) as hands:
        yield hands


EVERYTHING = r"""
mkdir -p d/e ~/h; cd d; echo hi > f; ln f e/g; ln -s ../x e/l; mkfifo p; umask 027
truncate -s 200M sparse; printf end | dd of=sparse bs=1 seek=100000000 conv=notrunc 2>/dev/null
python3 -c "import os; os.setxattr('f', 'user.k', b'v')" 2>/dev/null
echo tmp > /tmp/t; chmod 000 /tmp/t; echo home > ~/h/file; echo shm > /dev/shm/s
export A='b c'; declare -A M=([y z]=q); f() { echo "f $1"; }; shopt -s extglob; set -u
sleep 1000 & (while :; do sleep 1; done) & exec 7</etc/passwd
"""


async def test_everything_that_files_can_keep_is_kept_and_the_rest_is_named(
    a: Hands, b: Hands, tmp_path: Path
) -> None:
    await bash(await a.take(S), EVERYTHING)
    await a.put_away(S)
    assert a.states() == {}
    assert list((tmp_path / "A/sandboxes/workspaces").iterdir()) == []
    woken = await b.take(S)
    said = await bash(
        woken,
        'pwd; cat e/g; readlink e/l; [ -p p ] && echo pipe; echo "$A ${M[y z]}"; f 1; umask;'
        " [ e/g -ef f ] && echo same; tail -c +100000001 sparse | head -c 3; echo;"
        " [ $(du -k sparse | cut -f1) -lt 100 ] && echo sparse; cat ~/h/file /dev/shm/s;"
        " stat -c %a /tmp/t; shopt -q extglob && echo ext; set +u; echo $-",
    )
    lines = said.split("\n")
    files, kept = lines[:5], lines[5:13]
    assert files == ["/workspace/d", "hi", "../x", "pipe", "b c q"]
    assert kept == ["f 1", "0027", "same", "end", "sparse", "home", "shm", "0"]
    assert lines[13] == "ext"
    notice = await b.notice(S)
    assert "sleep 1000 &" in notice
    assert "( while :; do sleep 1; done ) &" in notice
    assert "the shell's open file 7 → /etc/passwd" in notice
    assert notice.count("\n- ") == 4  # and the loop's own sleep


async def test_the_store_holds_nothing_in_clear(a: Hands, tmp_path: Path) -> None:
    await bash(await a.take(S), "echo CANARY-4711-$((1+1)) > f; export SEEN=CANARY-4711-3")
    await a.put_away(S)
    files = [path for path in (tmp_path / "shelf").rglob("*") if path.is_file()]
    assert len(files) == 3
    for path in files:
        raw = path.read_bytes()
        assert b"CANARY" not in raw
        assert S.encode() not in raw
        assert b"workspace" not in raw


async def test_a_snapshot_is_of_one_moment_and_what_runs_goes_on(a: Hands, b: Hands) -> None:
    await bash(
        await a.take(S),
        "(i=0; while :; do i=$((i+1)); for n in one two; do echo $i > t; mv t $n; done; done) &"
        " while ! [ -e two ]; do sleep 0.01; done",
    )
    made = await a.snapshot(S, "moment")
    first = await bash(await a.take(S), "cat one; jobs -p | wc -l")
    await anyio.sleep(0.05)
    second = await bash(await a.take(S), "cat one")
    assert first.split("\n")[1] == "1"
    assert int(second) > int(first.split("\n")[0])
    catalogue = b._resort.sleeper.catalogue  # type: ignore[union-attr]
    catalogue.advance("sesn_fork", made.id)
    one, two = (await bash(await b.take("sesn_fork"), "cat one two")).split("\n")
    assert int(one) - int(two) in (0, 1)


async def test_frozen_processes_stand_still_and_timers_go_off_late(a: Hands) -> None:
    sandbox = await a.take(S)
    await bash(sandbox, "(while :; do date +%s%N >> ticks; sleep 0.01; done) & sleep 0.1")
    assert await a.freeze(S)
    workspace = sandbox._handles.workspace / "ticks"  # type: ignore[attr-defined]
    size = workspace.stat().st_size
    await anyio.sleep(0.15)
    assert workspace.stat().st_size == size
    assert "." not in await bash(await a.take(S), "sleep 0.05; wc -l < ticks")
    assert workspace.stat().st_size > size


async def test_where_there_is_no_freezer_all_get_the_signal(
    a: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "intramuros.execution.sandbox.cgroups.Group.can_freeze", property(lambda _self: False)
    )
    sandbox = await a.take(S)
    await bash(sandbox, "(while :; do echo x >> ticks; sleep 0.01; done) & sleep 0.1")
    assert await a.freeze(S)
    workspace = sandbox._handles.workspace / "ticks"  # type: ignore[attr-defined]
    await anyio.sleep(0.02)
    size = workspace.stat().st_size
    await anyio.sleep(0.1)
    assert workspace.stat().st_size == size
    assert await bash(await a.take(S), "echo back") == "back"


async def test_a_call_that_runs_is_not_cut_off(a: Hands) -> None:
    sandbox = await a.take(S)
    async with anyio.create_task_group() as group:
        group.start_soon(bash, sandbox, "sleep 0.3; echo done > f")
        await anyio.sleep(0.1)
        with pytest.raises(SandboxError, match="a call is running"):
            await a.put_away(S)
    assert await bash(await a.take(S), "cat f") == "done"


async def test_a_tree_that_cannot_be_kept_is_refused_and_lives_on(a: Hands, tmp_path: Path) -> None:
    sandbox = await a.take(S)
    await bash(sandbox, "sleep 99 &")
    # Not by the shell, whose commands the disk quota would end: it cannot count so deep a tree.
    deep = "import os\nfor _ in range(120): os.mkdir('d'); os.chdir('d')"
    assert (await sandbox.exec(["python3", "-c", deep])).exit_code == 0
    with pytest.raises(SandboxError, match="nested more deeply than 100"):
        await a.put_away(S)
    assert (await (await a.take(S)).exec(["rm", "-r", "d"])).exit_code == 0
    assert await bash(sandbox, "jobs -p | wc -l") == "1"
    await a.put_away(S)
    assert [path.name for path in (tmp_path / "shelf/data").iterdir()] != []


async def test_a_full_store_refuses_clearly_and_loses_nothing(
    a: Hands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await a.take(S)
    await bash(sandbox, "head -c 3000000 /dev/urandom > f; sleep 99 &")
    from intramuros.execution.snapshots import shelf

    opened = os.open("/dev/full", os.O_WRONLY)
    real = shelf.os.open

    def full(path: object, flags: int, *rest: object, **more: object) -> int:
        if str(path).endswith("#1"):
            return os.dup(opened)
        return real(path, flags, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(shelf.os, "open", full)
    with pytest.raises(SandboxError, match="No space left on device"):
        await a.put_away(S)
    monkeypatch.undo()
    os.close(opened)
    assert await bash(await a.take(S), "jobs -p | wc -l; wc -c < f") == "1\n3000000"
    assert list((tmp_path / "shelf").rglob("snap_*")) == []


async def test_what_is_mounted_is_made_anew_and_not_packed(tmp_path: Path) -> None:
    source = tmp_path / "shown"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(2 * MIB))
    spec = SandboxSpec(mounts=(Mount(source, "/workspace/shown"),))
    async with worker(tmp_path, spec=spec) as hands:
        await bash(await hands.take(S), "echo x > mine; ls shown")
        made = await hands.put_away(S)
        assert made.stored_bytes < MIB
        assert await bash(await hands.take(S), "ls shown mine") == "mine\n\nshown:\nbig"


async def test_what_is_restored_counts_against_the_sandboxs_own_limits(tmp_path: Path) -> None:
    async with worker(tmp_path, name="A", shared=True) as hands:
        await bash(await hands.take(S), "head -c 6000000 /dev/zero > f; head -c 900000 f > ~/g")
        await hands.put_away(S)
    small = SandboxSpec(limits=Limits(disk_bytes=4 * MIB))
    async with worker(tmp_path, name="B", shared=True, spec=small) as hands:
        with pytest.raises(SandboxError):
            await hands.take(S)
        assert hands.states() == {}
    async with worker(tmp_path, name="C", shared=True) as hands:
        assert await bash(await hands.take(S), "wc -c < f; wc -c < ~/g") == "6000000\n900000"


async def test_memory_and_processes_are_given_back(a: Hands) -> None:
    sandbox = await a.take(S)
    await bash(sandbox, "head -c 50000000 /dev/zero > /tmp/fill; sleep 77.01 &")
    group = sandbox._handles.group  # type: ignore[attr-defined]
    pids = group.pids() if group else set()
    await a.put_away(S)
    assert not pids & processes.parents().keys()
    assert await bash(await a.take(S), "wc -c < /tmp/fill") == "50000000"
