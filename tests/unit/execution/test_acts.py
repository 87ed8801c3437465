from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from intramuros.execution.acts import SILENT, Acts
from intramuros.execution.desk import BadRequest
from intramuros.execution.hands import Hands
from intramuros.execution.record import Record
from intramuros.execution.resting import Resort
from intramuros.execution.sandbox.base import SandboxError, SandboxSpec
from intramuros.execution.snapshots.catalogue import EXPIRED, Catalogue
from intramuros.execution.snapshots.keys import Keyring
from intramuros.execution.snapshots.ledger import Ledger
from intramuros.execution.snapshots.shelf import ObjectGone, Shelf
from intramuros.execution.snapshots.sleeper import Sleeper, Terms
from intramuros.kernel.timing import ManualClock
from tests.fakes.keepable import KeepableProvider
from tests.fakes.sandbox import FakeProvider

pytestmark = pytest.mark.anyio


class Desk:
    """One worker's acts, without the socket."""

    def __init__(self, root: Path, provider: FakeProvider) -> None:
        self.clock = ManualClock()
        self.record = Record(root / "audit.jsonl", self.clock)
        self.keys = Keyring.open(root / "keys")
        self.catalogue = Catalogue(Shelf.open(str(root / "shelf")), self.keys)
        terms = Terms("w", 1 << 20)
        sleeper = Sleeper(self.catalogue, Ledger(root / "awake"), self.record, terms)
        resort = Resort(sleeper, self.clock)
        self.hands = Hands(provider, SandboxSpec(), lambda: 0.0, keep=1, resort=resort)
        self.acts = Acts(self.hands, resort, self.keys).table()

    async def __call__(self, do: str, **request: object) -> Any:
        return await self.acts[do]({"do": do, **request})


@pytest.fixture
def provider() -> KeepableProvider:
    return KeepableProvider()


@pytest.fixture
def desk(tmp_path: Path, provider: KeepableProvider) -> Iterator[Desk]:
    made = Desk(tmp_path, provider)
    yield made
    made.record.close()


async def test_a_session_is_paused_at_each_level_and_resumed(desk: Desk, provider) -> None:
    await desk.hands.take("s")
    assert await desk("pause", session="s", level="freeze") == {"session": "s", "level": "freeze"}
    assert await desk("sandboxes") == {"s": "frozen"}
    with pytest.raises(SandboxError, match="can be frozen"):
        await desk("pause", session="s", level="freeze")
    with pytest.raises(SandboxError, match="live processes cannot be kept"):
        await desk("pause", session="s", level="full")
    assert provider.live["s"].alive
    done = await desk("pause", session="s", level="files")
    assert (done["session_id"], done["lost"]) == ("s", ("the shell's open file 7",))
    assert "key" not in done
    assert provider.live == {}
    assert await desk("resume", session="s") == {"session": "s"}
    assert await desk("sandboxes") == {"s": "resting"}


async def test_snapshots_are_made_listed_and_restored(desk: Desk, provider) -> None:
    (await desk.hands.take("s")).files.append(b"1")
    first = await desk("create", session="s", name="first", expires_s=60)
    assert first["expires_at"] == first["created_at"] + 60
    provider.live["s"].files.append(b"2")
    desk.clock.advance(1)
    second = await desk("create", session="s", name="second")
    assert [one["name"] for one in await desk("snapshots")] == ["first", "second"]
    done = await desk("restore", snapshot=first["id"])
    assert (done["session"], done["number"]) == ("s", 1)
    assert (await desk.hands.take("s")).files == [b"1"]
    await desk("restore", snapshot=second["id"])
    assert (await desk.hands.take("s")).files == [b"12"]


async def test_one_in_use_is_not_restored_over(desk: Desk, provider) -> None:
    sandbox = await desk.hands.take("s")
    made = await desk("create", session="s", name="n")
    sandbox.busy = True
    with pytest.raises(SandboxError, match="a call is running"):
        await desk("restore", snapshot=made["id"])
    assert sandbox.alive
    assert desk.catalogue.head("s") is None


async def test_a_fork_begins_with_what_its_source_had(desk: Desk, provider) -> None:
    (await desk.hands.take("s")).files.append(b"1")
    away = await desk("pause", session="s", level="files")
    done = await desk("fork", snapshot=away["id"], session="t")
    assert done["session"] == "t"
    assert (await desk.hands.take("t")).files == [b"1"]
    # Its source may go on and be put away again: what was forked has a name now, and stays.
    await desk.hands.take("s")
    await desk.hands.put_away("s")
    assert desk.catalogue.manifest(away["id"]).name == "fork of s"
    with pytest.raises(SandboxError, match="has a sandbox already"):
        await desk("fork", snapshot=away["id"], session="t")
    await desk.hands.take("live")
    with pytest.raises(SandboxError, match="has a sandbox already"):
        await desk("fork", snapshot=away["id"], session="live")
    with pytest.raises(BadRequest, match="own session"):
        await desk("fork", snapshot=away["id"], session="s")


async def test_what_a_session_would_wake_from_is_deleted_by_force_only(desk: Desk) -> None:
    await desk.hands.take("s")
    away = await desk("pause", session="s", level="files")
    with pytest.raises(SandboxError, match="session s would wake from it: `--force`"):
        await desk("delete", snapshot=away["id"])
    await desk("delete", snapshot=away["id"], force=True)
    head = desk.catalogue.head("s")
    assert head is not None
    assert head.snapshot_id == EXPIRED
    await desk.hands.take("t")
    made = await desk("create", session="t", name="n")
    await desk("delete", snapshot=made["id"])
    with pytest.raises(ObjectGone, match=f"there is no snapshot {made['id']}"):
        await desk("delete", snapshot=made["id"])


async def test_keys_are_rotated(desk: Desk, tmp_path: Path) -> None:
    await desk.hands.take("s")
    await desk("pause", session="s", level="files")
    assert await desk("rotate") == {"resealed": 2, "forgotten": 0}
    # Another worker gets the new key, and keeps something under it before the old one goes.
    (tmp_path / "copy").write_bytes((tmp_path / "keys").read_bytes())
    (tmp_path / "copy").chmod(0o600)
    other = Catalogue(desk.catalogue.shelf, Keyring.open(tmp_path / "copy"))
    assert await desk("rotate", forget=True) == {"resealed": 2, "forgotten": 1}
    (away,) = await desk("snapshots")
    assert other.manifest(away["id"]) == desk.catalogue.manifest(away["id"])
    assert other.head("s") == desk.catalogue.head("s")
    assert await desk("rotate", forget=True) == {"resealed": 2, "forgotten": 0}
    await desk.hands.take("s")


async def test_expiry_can_be_asked_for(desk: Desk) -> None:
    await desk.hands.take("s")
    await desk("create", session="s", name="n", expires_s=5)
    desk.clock.advance(6)
    assert await desk("expire") == {}
    assert await desk("snapshots") == []


@pytest.mark.parametrize(
    ("do", "request_", "why"),
    [
        ("pause", {"session": "../x", "level": "files"}, "no session's id"),
        ("pause", {"session": "s", "level": "sleep"}, "one of freeze, files, full"),
        ("pause", {"session": "s"}, "'level'"),
        ("create", {"session": "s", "name": "a/b"}, "a name is"),
        ("create", {"session": "s", "name": ""}, "'name'"),
        ("restore", {"snapshot": 5}, "'snapshot'"),
    ],
)
async def test_malformed_requests_are_refused(
    desk: Desk, do: str, request_: dict[str, object], why: str
) -> None:
    with pytest.raises(BadRequest, match=why):
        await desk(do, **request_)


async def test_a_date_in_the_past_is_refused(desk: Desk) -> None:
    await desk.hands.take("s")
    for when in (0, -1, "soon", 10**11):
        with pytest.raises(BadRequest, match="expires_s"):
            await desk("create", session="s", name="n", expires_s=when)


async def test_without_a_place_for_snapshots_it_says_so(provider) -> None:
    hands = Hands(provider, SandboxSpec(), lambda: 0.0)
    acts = Acts(hands, None, None).table()
    await hands.take("s")
    for do in ("snapshots", "expire", "rotate", "create", "pause"):
        request = {"session": "s", "name": "n", "level": "files"}
        with pytest.raises(SandboxError, match="keeps no snapshots"):
            await acts[do](request)
    assert await acts["pause"]({"session": "s", "level": "freeze"})
    assert acts.keys() >= SILENT
