from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from intramuros.execution.record import Record
from intramuros.execution.sandbox.base import SandboxError, SandboxSpec
from intramuros.execution.snapshots.catalogue import EXPIRED, Catalogue, Head
from intramuros.execution.snapshots.keys import Keyring
from intramuros.execution.snapshots.ledger import Entry, Ledger
from intramuros.execution.snapshots.shelf import Shelf
from intramuros.execution.snapshots.sleeper import Sleeper, Terms
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.timing import ManualClock
from tests.fakes.keepable import KeepableProvider, KeepableSandbox
from tests.fakes.sandbox import FakeProvider

pytestmark = pytest.mark.anyio
SESSION = "sesn_1"


class Host:
    """One worker of a place that it shares."""

    def __init__(self, shared: Path, name: str, clock: ManualClock, expire_s: float = 0.0) -> None:
        self.provider = KeepableProvider()
        self.folder = shared / name
        self.ledger = Ledger(self.folder / "awake")
        self.record = Record(self.folder / "audit.jsonl", clock)
        self.catalogue = Catalogue(Shelf.open(str(shared / "shelf")), Keyring.open(shared / "keys"))
        terms = Terms(name, 1 << 20, expire_s)
        self.sleeper = Sleeper(self.catalogue, self.ledger, self.record, terms)

    async def create(self, session_id: str = SESSION) -> KeepableSandbox:
        return await self.provider.create(SandboxSpec(), session_id)

    async def away(self, sandbox: KeepableSandbox) -> Head:
        head = await self.sleeper.commit(await self.sleeper.save(sandbox.sandbox_id, sandbox))
        await sandbox.destroy()
        await self.sleeper.settle(
            sandbox.sandbox_id, head, partial(self.provider.forget, sandbox.sandbox_id)
        )
        return head

    async def wake(self, session_id: str = SESSION) -> KeepableSandbox:
        wake = await self.sleeper.due(session_id)
        assert wake is not None
        forget = partial(self.provider.forget, session_id)
        made = await self.sleeper.wake(wake, partial(self.create, session_id), forget)
        assert isinstance(made, KeepableSandbox)
        return made

    def kinds(self) -> list[str]:
        self.record.settle()
        return [line.split('"kind":"')[1].split('"')[0] for line in read_lines(self.audit)]

    @property
    def audit(self) -> Path:
        return self.folder / "audit.jsonl"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def host(tmp_path: Path, clock: ManualClock):
    hosts: list[Host] = []

    def make(name: str = "A", expire_s: float = 0.0) -> Host:
        hosts.append(Host(tmp_path, name, clock, expire_s))
        return hosts[-1]

    yield make
    for made in hosts:
        made.record.close()


Make = Callable[..., Host]


async def test_a_sandbox_is_put_away_and_woken_by_another(host: Make) -> None:
    a, b = host("A"), host("B")
    sandbox = await a.create()
    sandbox.files += [b"one", b"two"]
    sandbox.script = b"cd /x\n"
    assert await b.sleeper.due(SESSION) is None
    await a.away(sandbox)
    assert a.provider.disk == {}
    woken = await b.wake()
    assert (woken.files, woken.script) == ([b"onetwo"], b"cd /x\n")
    notice = await b.sleeper.notice(SESSION)
    assert "background process 7 (running for 5 s): sleep 9" in notice
    assert "the shell's open file 7" in notice
    await b.sleeper.told(SESSION)
    assert await b.sleeper.notice(SESSION) == ""
    assert await b.sleeper.due(SESSION) is None
    assert a.kinds() == ["snapshot.create", "sandbox.away"]
    assert b.kinds() == ["sandbox.wake"]


async def test_one_that_comes_back_replaces_what_it_came_from(host: Make) -> None:
    a, b = host("A"), host("B")
    await a.away(await a.create())
    await b.away(await b.wake())
    assert len(list(a.catalogue.manifests())) == 1
    assert a.catalogue.shelf.names("awake") == []
    assert (await a.wake()).script is None


async def test_the_workspace_here_counts_until_somebody_put_the_session_away_since(
    host: Make,
) -> None:
    a, b = host("A"), host("B")
    await a.away(await a.create())
    await a.wake()  # and A dies: what it has on its disk is the newest
    assert await a.sleeper.due(SESSION) is None
    await b.away(await b.wake())
    wake = await a.sleeper.due(SESSION)
    assert wake is not None
    assert wake.head.number == 2
    assert not wake.missed


async def test_what_was_lost_with_a_worker_is_said(host: Make) -> None:
    a, b = host("A"), host("B")
    await a.away(await a.create())
    await a.wake()
    await b.wake()
    assert "lost with its worker" in await b.sleeper.notice(SESSION)


async def test_half_a_restored_workspace_is_never_used(host: Make) -> None:
    a = host("A")
    sandbox = await a.create()
    sandbox.files.append(b"data")
    head = await a.away(sandbox)
    a.ledger.write(SESSION, Entry(head.number, False))
    a.provider.disk[SESSION] = [b"half"]
    woken = await a.wake()
    assert woken.files == [b"data"]
    assert "lost with its worker" not in await a.sleeper.notice(SESSION)


async def test_what_cannot_be_stored_leaves_all_as_it_was(
    host: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = host("A")
    sandbox = await a.create()
    sandbox.files.append(b"x" * (1 << 20))
    with pytest.raises(SandboxError, match="larger than"):
        await a.sleeper.save(SESSION, sandbox)
    sandbox.files[:] = [b"x"]
    sandbox.broken = True
    with pytest.raises(SandboxError, match="broke"):
        await a.sleeper.save(SESSION, sandbox)
    sandbox.broken, sandbox.busy = False, True
    with pytest.raises(SandboxError, match="a call is running"):
        await a.sleeper.save(SESSION, sandbox)
    with pytest.raises(SandboxError, match="cannot be put away"):
        await a.sleeper.save(SESSION, await FakeProvider().create(SandboxSpec(), SESSION))
    assert sandbox.alive
    assert a.catalogue.shelf.names("data") == a.catalogue.shelf.names("snapshots") == []
    assert await a.sleeper.due(SESSION) is None


@pytest.mark.parametrize("part", ["data", "snapshots", "sessions"])
async def test_a_changed_snapshot_makes_no_sandbox(host: Make, tmp_path: Path, part: str) -> None:
    a = host("A")
    await a.away(await a.create())
    [path] = [path for path in (tmp_path / "shelf" / part).rglob("*") if path.is_file()]
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(SandboxError, match="cannot be woken"):
        await a.wake()
    assert a.provider.live == {}
    raw[-1] ^= 1
    path.write_bytes(raw)
    await a.wake()


async def test_nothing_is_done_that_cannot_be_recorded(
    host: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = host("A")
    await a.away(await a.create())
    wake = await a.sleeper.due(SESSION)
    assert wake is not None

    def full(_lines: list[str]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(a.record, "_append", full)
    with pytest.raises(SandboxError, match="audit record"):
        await a.sleeper.wake(wake, a.create, partial(a.provider.forget, SESSION))
    assert a.provider.live == {}
    sandbox = await a.create()
    with pytest.raises(SandboxError, match="audit record"):
        await a.sleeper.save(SESSION, sandbox)
    monkeypatch.undo()


async def test_a_store_that_does_not_answer_makes_no_sandbox(host: Make, tmp_path: Path) -> None:
    a = host("A")
    head = await a.away(await a.create())
    shelf = tmp_path / "shelf/sessions"
    shelf.rename(tmp_path / "elsewhere")
    shelf.write_text("not a directory")
    with pytest.raises(SandboxError):
        await a.sleeper.due(SESSION)
    with pytest.raises(SandboxError):
        await a.sleeper.current(SESSION, head)


async def test_old_snapshots_expire_and_the_session_is_told(host: Make, clock: ManualClock) -> None:
    a = host("A", expire_s=3600.0)
    await a.away(await a.create())
    named = await a.sleeper.save(SESSION, await a.wake(), "kept")
    clock.advance(3000)
    await a.sleeper.tidy()
    assert len(list(a.catalogue.manifests())) == 2
    clock.advance(700)
    await a.sleeper.tidy()
    assert [m.id for m in a.catalogue.manifests()] == [named.id]
    head = a.catalogue.head(SESSION)
    assert head is not None
    assert head.snapshot_id == EXPIRED
    await a.provider.live[SESSION].destroy()
    assert (await a.wake()).files == []
    assert "slept for longer" in await a.sleeper.notice(SESSION)
    assert "snapshot.expire" in a.kinds()


async def test_one_with_a_date_of_its_own_expires_then(host: Make, clock: ManualClock) -> None:
    from dataclasses import replace

    a = host("A")
    made = await a.sleeper.save(SESSION, await a.create(), "dated")
    a.catalogue.add(replace(made, expires_at=made.created_at + timedelta(days=1).total_seconds()))
    await a.sleeper.tidy()
    assert len(list(a.catalogue.manifests())) == 1
    clock.advance(90_000)
    await a.sleeper.tidy()
    assert list(a.catalogue.manifests()) == []


async def test_a_deleted_session_leaves_nothing(host: Make) -> None:
    a = host("A")
    await a.away(await a.create())
    await a.sleeper.forget(SESSION)
    assert await a.sleeper.due(SESSION) is None
    assert list(a.catalogue.manifests()) == []


async def test_one_that_lives_on_after_it_was_stored(host: Make) -> None:
    a = host("A")
    sandbox = await a.create()
    head = await a.sleeper.commit(await a.sleeper.save(SESSION, sandbox))
    await a.sleeper.note(SESSION, head)
    assert await a.sleeper.due(SESSION) is None
    assert await a.sleeper.current(SESSION, head)
    b = host("B")
    await b.away(await b.wake())
    assert not await a.sleeper.current(SESSION, head)


async def test_a_long_script_in_odd_pieces(host: Make) -> None:
    from intramuros.execution.snapshots.sleeper import _without_script

    async def pieces(data: bytes, step: int):
        for at in range(0, len(data), step):
            yield data[at : at + step]

    for script in (b"s" * 1000, None):
        head = (0xFFFFFFFF if script is None else len(script)).to_bytes(4, "big")
        for step in (1, 3, 7, 5000):
            got: list[bytes] = []
            data = head + (script or b"") + b"files"
            rest = [chunk async for chunk in _without_script(pieces(data, step), got)]
            assert b"".join(rest) == b"files"
            assert got == ([] if script is None else [script])


async def test_a_sandbox_that_was_lost_is_told_once(host: Make) -> None:
    a = host("A")
    await a.sleeper.begin(SESSION)
    assert await a.sleeper.notice(SESSION) == ""
    await a.sleeper.begin(SESSION)
    await a.sleeper.begin(SESSION)
    assert (await a.sleeper.notice(SESSION)).count("without being put away") == 1
    await a.sleeper.told(SESSION)
    assert await a.sleeper.notice(SESSION) == ""
    await a.away(await a.create())
    await a.sleeper.begin(SESSION)
    assert await a.sleeper.notice(SESSION) == ""


async def test_what_was_not_told_is_told_the_next_time(host: Make) -> None:
    a = host("A")
    sandbox = await a.create()
    sandbox.script = b"x\n"
    await a.away(sandbox)
    woken = await a.wake()
    woken.script = None
    await a.away(woken)
    await a.wake()
    notice = await a.sleeper.notice(SESSION)
    assert "sleep 9" in notice
    assert "untold" not in next(a.catalogue.manifests()).public()
