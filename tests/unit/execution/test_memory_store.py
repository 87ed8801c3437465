import json
from pathlib import Path
from typing import Any, cast

import pytest

from intramuros.execution.client import Attached, Away, Refused
from intramuros.execution.memory_files import MARKER, Folder
from intramuros.execution.memory_store import Line, Pass, Store
from intramuros.execution.record import Record, RecordFailed
from intramuros.execution.releases import Answer
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.timing import ManualClock
from tests.fakes.memory import FakeMemory
from tests.fakes.outflow import FakePeople, asking, gate, way

pytestmark = pytest.mark.anyio

S = "memstore_1"
SECRET = "a-secret-of-the-worker-0123456789"


class Bench:
    """A store under test, its folder and the other side."""

    def __init__(self, folder: Path) -> None:
        self.home = folder
        self.remote = FakeMemory()
        self.remote.stores[S] = {}
        self.clock = ManualClock()
        self.record = Record(folder / "audit.jsonl", self.clock)
        self.gate = gate(SECRET)
        self.people = FakePeople()
        self.store = self.make()

    def make(self, *, read_only: bool = False) -> Store:
        out = way(self.record, self.gate, self.people)
        line = Line(cast("Any", self.remote), self.record, out, self.clock)
        attached = Attached(S, "/mnt/memory/s", read_only)
        return Store(attached, Folder(self.home / "store", S), line)

    @property
    def files(self) -> Path:
        return self.store.folder.path

    def local(self) -> dict[str, str]:
        return {
            f"/{path.relative_to(self.files)}": path.read_text()
            for path in self.files.rglob("*")
            if path.is_file() and path.name != MARKER
        }

    async def sync(self, kind: Pass = Pass.REGULAR, after_s: float = 0.0) -> None:
        self.clock.advance(after_s)
        await self.store.sync(kind)

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in read_lines(self.home / "audit.jsonl")]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def opened(bench: Bench, **contents: str) -> Bench:
    for name, content in contents.items():
        bench.remote.put(S, f"/{name}", content)
    await bench.store.open()
    bench.remote.log.clear()
    return bench


async def test_c25_16_open_fetches_everything_whole(bench: Bench) -> None:
    bench.remote.put(S, "/a/b", "x")
    bench.remote.put(S, f"/{MARKER}", "not mine")
    bench.remote.put(S, "/../../escape", "x")
    await opened(bench, c="y")
    assert bench.local() == {"/a/b": "x", "/c": "y"}
    assert (bench.files / MARKER).read_text() == f"version 1\n{S}"
    assert bench.store.synced
    await bench.sync()
    assert bench.remote.log == [("list", S)]


async def test_c25_18_new_and_changed_files_go_out(bench: Bench) -> None:
    await opened(bench, a="1", b="2")
    (bench.files / "a").write_text("1+")
    (bench.files / "dir").mkdir()
    (bench.files / "dir/new").write_text("3")
    await bench.sync()
    assert bench.remote.held(S) == {"/a": "1+", "/b": "2", "/dir/new": "3"}
    assert sorted(bench.remote.did("create", "update")) == [
        ("create", "/dir/new"),
        ("update", "/a"),
    ]
    bench.remote.log.clear()
    await bench.sync()
    assert bench.remote.log == [("list", S)]


async def test_changes_of_others_come_in(bench: Bench) -> None:
    await opened(bench, a="1", b="2", c="3")
    bench.remote.put(S, "/a", "1!")
    bench.remote.put(S, "/new", "4")
    bench.remote.drop(S, "/b")
    await bench.sync()
    assert bench.local() == {"/a": "1!", "/c": "3", "/new": "4"}


async def test_c25_19_the_other_side_wins_a_conflict(bench: Bench) -> None:
    await opened(bench, a="1")
    (bench.files / "a").write_text("mine")
    bench.remote.put(S, "/a", "theirs")
    await bench.sync()
    assert bench.local() == {"/a": "theirs"} == bench.remote.held(S)


async def test_c25_18_a_file_that_exists_nowhere_else_is_made_again(bench: Bench) -> None:
    await opened(bench, a="1", b="2")
    (bench.files / "a").write_text("mine")
    bench.remote.drop(S, "/a")
    await bench.sync()
    assert bench.remote.held(S) == {"/a": "mine", "/b": "2"}


async def test_c25_18_a_memory_that_goes_during_an_update_is_made_again(bench: Bench) -> None:
    await opened(bench, a="1")
    (bench.files / "a").write_text("mine")
    bench.remote.failures["update"] = [Refused("HTTP 404", 404)]
    bench.remote.failures["create"] = [Away("HTTP 503")]
    await bench.sync()
    assert bench.remote.did("update", "create") == [("update", "/a"), ("create", "/a")]
    assert not bench.store.synced


@pytest.mark.parametrize("status", [400, 413])
async def test_c25_19_R169_what_was_refused_waits_for_a_change(bench: Bench, status: int) -> None:
    await opened(bench)
    (bench.files / "a").write_text("bad")
    bench.remote.failures["create"] = [Refused("no", status)]
    await bench.sync()
    await bench.sync()
    assert bench.remote.did("create") == [("create", "/a")]
    (bench.files / "a").write_text("good")
    await bench.sync()
    assert bench.remote.held(S) == {"/a": "good"}


async def test_what_cannot_be_a_memory_is_not_sent(bench: Bench) -> None:
    await opened(bench)
    (bench.files / "binary").write_bytes(b"\xff\xfe")
    (bench.files / "large").write_bytes(b"x" * 102_401)
    (bench.files / "new\nline").write_text("x")
    (bench.files / "fine").write_text("x")
    for _ in range(2):
        await bench.sync()
    assert bench.remote.did("create") == [("create", "/fine")]


async def test_an_answer_that_was_lost_is_no_conflict(bench: Bench) -> None:
    await opened(bench, a="1")
    (bench.files / "a").write_text("2")
    bench.remote.late["update"] = [Away("lost")]
    await bench.sync()
    assert not bench.store.synced
    (bench.files / "a").write_text("3")
    await bench.sync()
    assert bench.remote.held(S) == {"/a": "3"} == bench.local()


async def test_c25_20_deletions_wait_and_are_bounded(bench: Bench) -> None:
    await opened(bench, **{f"f{number:02}": str(number) for number in range(12)})
    for number in range(11):
        (bench.files / f"f{number:02}").unlink()
    await bench.sync()
    await bench.sync(after_s=29.0)
    assert bench.remote.did("delete") == []
    await bench.sync(after_s=1.0)
    assert len(bench.remote.did("delete")) == 8
    await bench.sync()
    assert bench.remote.held(S) == {"/f11": "11"}


async def test_c25_20_a_file_that_comes_back_was_never_gone(bench: Bench) -> None:
    await opened(bench, a="1", b="2")
    (bench.files / "a").unlink()
    await bench.sync()
    (bench.files / "a").write_text("1")
    await bench.sync(after_s=31)
    (bench.files / "a").unlink()
    await bench.sync()
    assert bench.remote.did("delete") == []


async def test_c25_20_the_last_pass_does_not_wait(bench: Bench) -> None:
    await opened(bench, a="1", b="2")
    (bench.files / "a").unlink()
    await bench.sync(Pass.FINAL)
    assert bench.remote.held(S) == {"/b": "2"}
    assert bench.store.synced


async def test_c25_21_a_memory_that_changed_is_not_deleted(bench: Bench) -> None:
    await opened(bench, a="1", b="2", c="3")
    (bench.files / "a").unlink()
    (bench.files / "b").unlink()
    changed = bench.remote.memories

    async def late(store_id: str, *, full: bool) -> Any:
        listed = [memory async for memory in changed(store_id, full=full)]
        bench.remote.put(S, "/a", "1!")
        bench.remote.drop(S, "/b")
        for memory in listed:
            yield memory

    bench.remote.memories = late  # type: ignore[method-assign]
    await bench.sync(Pass.FINAL)
    assert bench.local() == {"/a": "1!", "/c": "3"}
    assert bench.remote.held(S) == {"/a": "1!", "/c": "3"}


async def test_everything_gone_at_once_comes_back(bench: Bench) -> None:
    await opened(bench, a="1", b="2")
    for name in ("a", "b"):
        (bench.files / name).unlink()
    await bench.sync(Pass.FLUSH)
    assert bench.local() == {}
    await bench.sync(Pass.FINAL)
    assert bench.local() == {"/a": "1", "/b": "2"} == bench.remote.held(S)


async def test_without_its_marker_nothing_leaves(bench: Bench) -> None:
    await opened(bench, a="1", b="2")
    (bench.files / MARKER).unlink()
    (bench.files / "a").unlink()
    (bench.files / "c").write_text("3")
    await bench.sync(Pass.FINAL)
    assert bench.remote.log == []
    assert not bench.store.synced
    for name in ("b", "c"):
        (bench.files / name).unlink()
    await bench.sync()
    assert bench.local() == {"/a": "1", "/b": "2"}


async def test_c25_23_a_read_only_store_only_follows(bench: Bench) -> None:
    bench.store = bench.make(read_only=True)
    await opened(bench, a="1", b="2", c="3")
    (bench.files / "a").write_text("mine")
    (bench.files / "b").unlink()
    (bench.files / "d").write_text("4")
    bench.remote.put(S, "/c", "3!")
    for kind in Pass:
        await bench.sync(kind)
    assert bench.remote.did("create", "update", "delete") == []
    assert bench.local() == {"/a": "1", "/b": "2", "/c": "3!", "/d": "4"}


async def test_a_flush_only_sends(bench: Bench) -> None:
    await opened(bench, a="1", b="2", c="3")
    (bench.files / "a").write_text("1+")
    (bench.files / "b").unlink()
    bench.remote.put(S, "/c", "3!")
    await bench.sync(Pass.FLUSH)
    assert bench.remote.held(S) == {"/a": "1+", "/b": "2", "/c": "3!"}
    assert bench.local() == {"/a": "1+", "/c": "3"}


async def test_a_later_worker_sends_what_a_dead_one_did_not(bench: Bench) -> None:
    await opened(bench, a="1", b="2")
    (bench.files / "a").write_text("1+")
    bench.remote.put(S, "/b", "2!")
    bench.store = bench.make()
    await bench.store.open()
    assert bench.remote.held(S) == {"/a": "1+", "/b": "2!"} == bench.local()


async def test_secrets_are_masked_on_both_sides(bench: Bench) -> None:
    await opened(bench)
    (bench.files / "a").write_text(f"key={SECRET}")
    await bench.sync()
    assert bench.remote.held(S) == {"/a": "key=[masked credential]"} == bench.local()
    bench.remote.log.clear()
    await bench.sync()
    assert bench.remote.log == [("list", S)]


async def test_what_crosses_is_recorded_first_and_never_quoted(bench: Bench) -> None:
    await opened(bench, one="text-one", two="text-two")
    (bench.files / "one").write_text("text-three")
    (bench.files / "two").unlink()
    await bench.sync(Pass.FINAL)
    kinds = [(entry["kind"], entry["fields"]["direction"]) for entry in bench.audit()]
    assert kinds[0] == ("memory.read", "in")
    assert sorted(kinds[1:]) == [("memory.delete", "out"), ("memory.write", "out")]
    text = (bench.home / "audit.jsonl").read_text()
    assert "text-" not in text


async def test_what_cannot_be_recorded_does_not_happen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened(bench, a="1", b="2")

    async def fail(*_args: object, **_fields: object) -> None:
        raise RecordFailed("disk full")

    monkeypatch.setattr(bench.record, "write", fail)
    (bench.files / "a").write_text("1+")
    (bench.files / "b").unlink()
    bench.remote.put(S, "/c", "3")
    await bench.sync(Pass.FINAL)
    assert bench.remote.held(S) == {"/a": "1", "/b": "2", "/c": "3"}
    assert bench.local() == {"/a": "1+"}


async def test_a_pass_that_fails_says_so_and_harms_nothing(bench: Bench) -> None:
    await opened(bench, a="1", b="2")
    (bench.files / "a").write_text("1+")
    bench.remote.failures["list"] = [Away("HTTP 503")]
    await bench.sync()
    assert not bench.store.synced
    await bench.sync()
    assert bench.store.synced
    assert bench.remote.held(S)["/a"] == "1+"


TOKEN = "ghp_" + "a" * 36


async def test_a_memory_waits_for_a_persons_word(bench: Bench) -> None:
    bench.gate = gate(policy=asking())
    bench.store = bench.make()
    await bench.store.open()
    (bench.files / "a").write_text(f"key={TOKEN} {SECRET}")
    await bench.store.sync(Pass.REGULAR)
    assert bench.remote.held(S) == {}
    assert not bench.store.synced
    (asked,) = bench.people.asked
    assert asked.excerpt == f"key=[masked github token] {SECRET}"
    bench.people.answer = Answer(True, by="key_1")
    await bench.store.sync(Pass.REGULAR)
    assert bench.remote.held(S) == {"/a": f"key={TOKEN} {SECRET}"}
    assert bench.store.synced


async def test_a_refused_memory_stays_here(bench: Bench) -> None:
    bench.gate = gate(policy=asking())
    bench.store = bench.make()
    await bench.store.open()
    bench.people.answer = Answer(False, "no")
    (bench.files / "a").write_text(f"key={TOKEN}")
    (bench.files / "b").write_text("clean")
    await bench.store.sync(Pass.REGULAR)
    await bench.store.sync(Pass.REGULAR)
    assert bench.remote.held(S) == {"/b": "clean"}
    assert bench.local()["/a"] == f"key={TOKEN}"
    assert len(bench.people.asked) == 1
    audit = bench.home / "audit.jsonl"
    kinds = [line.split('"kind":"')[1].split('"')[0] for line in read_lines(audit)]
    assert kinds.count("memory.withheld") == 1


async def test_a_memory_named_after_a_secret_stays_here(bench: Bench) -> None:
    await bench.store.open()
    (bench.files / SECRET).write_text("clean")
    await bench.store.sync(Pass.REGULAR)
    assert bench.remote.held(S) == {}
