import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from intramuros.execution import outputs
from intramuros.execution.client import Away, Refused
from intramuros.execution.outflow.policy import Policy
from intramuros.execution.outputs import Outputs, copy, scan
from intramuros.execution.record import Record
from intramuros.execution.releases import Answer
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.timing import ManualClock
from tests.fakes.hosted import FakeHosted
from tests.fakes.outflow import POLICY, FakePeople, asking, gate, way

pytestmark = pytest.mark.anyio


class Rig:
    def __init__(self, folder: Path, policy: Policy = POLICY) -> None:
        self.remote = FakeHosted()
        self.audit = folder / "audit.jsonl"
        record = Record(self.audit, ManualClock())
        self.people = FakePeople()
        out = way(record, gate(policy=policy), self.people)
        self.outputs = Outputs(folder / "home", cast("Any", self.remote), record, out)
        self.root = self.outputs.path

    def write(self, path: str, content: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def did(self) -> list[tuple[str, str]]:
        log, self.remote.log = self.remote.log, []
        return [entry for entry in log if entry[0] != "outputs"]


async def test_what_is_left_is_brought_once_and_again_when_it_changes(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.outputs.open()
    rig.write("a", b"1")
    rig.write("d/b", b"2")
    await rig.outputs.sync()
    assert sorted(rig.did()) == [("put", "a"), ("put", "d/b")]
    await rig.outputs.sync()
    assert rig.did() == []
    rig.write("a", b"11")
    (rig.root / "d/b").unlink()
    await rig.outputs.sync()
    assert rig.did() == [("put", "a"), ("remove", "d/b")]
    assert rig.remote.left == {"a": b"11"}


async def test_what_the_server_has_already_is_not_sent_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.remote.left = {"a": b"1", "elsewhere": b"2"}
    await rig.outputs.open()
    rig.write("a", b"1")
    await rig.outputs.sync()
    assert rig.did() == []
    # What was never seen here is not ours to take away.
    assert set(rig.remote.left) == {"a", "elsewhere"}


async def test_nothing_but_regular_files_leaves(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.outputs.open()
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    (rig.root / "link").symlink_to(secret)
    (rig.root / "folder").symlink_to(tmp_path)
    os.mkfifo(rig.root / "pipe")
    (rig.root / b"\xff\xfe".decode("utf-8", "surrogateescape")).write_text("x")
    (rig.root / "new\nline").write_text("x")
    rig.write("/".join("d" * 25), b"too deep")
    await rig.outputs.sync()
    assert rig.remote.left == {}


async def test_failures_are_tried_again_and_refusals_when_the_file_changes(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.outputs.open()
    rig.write("a", b"1")
    rig.remote.failures = [Away("HTTP 503")]
    with pytest.raises(Away):
        await rig.outputs.sync()
    rig.remote.failures = [Refused("HTTP 413", 413)]
    await rig.outputs.sync()
    await rig.outputs.sync()
    assert rig.did() == [("put", "a"), ("put", "a")]
    rig.write("a", b"12")
    await rig.outputs.sync()
    assert rig.remote.left == {"a": b"12"}


async def test_what_is_too_large_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MAX_FILE_BYTES", 10)
    rig = Rig(tmp_path)
    await rig.outputs.open()
    with (rig.root / "bomb").open("wb") as file:
        file.truncate(2**40)
    rig.write("fits", b"1234567890")
    await rig.outputs.sync()
    assert rig.remote.left == {"fits": b"1234567890"}


def test_too_many_entries_are_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MAX_ENTRIES", 5)
    for number in range(6):
        (tmp_path / str(number)).touch()
    with pytest.raises(OSError, match="too many"):
        scan(tmp_path)


def test_a_path_that_is_swapped_for_a_link_never_leads_out(tmp_path: Path) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret"
    root.mkdir()
    secret.mkdir()
    (secret / "f").write_text("of the host")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "d").mkdir()
            (root / "d/f").write_text("ours")
            (root / "d/f").unlink()
            (root / "d").rmdir()
            (root / "d").symlink_to(secret)
            (root / "d").unlink()

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        for _ in range(3000):
            try:
                copy(root, "d/f", tmp_path / "copy")
            except OSError:
                continue
            assert (tmp_path / "copy").read_text() in ("ours", "")
    finally:
        stop.set()
        attacker.join()


TOKEN = b"ghp_" + b"a" * 36


def kinds(rig: Rig) -> list[str]:
    return [line.split('"kind":"')[1].split('"')[0] for line in read_lines(rig.audit)]


async def test_a_text_is_brought_masked_and_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.outputs.open()
    rig.write("a", b"key=" + TOKEN)
    await rig.outputs.sync()
    assert rig.remote.left == {"a": b"key=[masked github token]"}
    assert (rig.root / "a").read_bytes() == b"key=" + TOKEN
    (line,) = read_lines(rig.audit)
    fields = json.loads(line)["fields"]
    assert (fields["masked"], fields["rules"]) == (1, {"github token": 1})
    assert fields["sha256"] == hashlib.sha256(rig.remote.left["a"]).hexdigest()
    # Another worker takes it for what the server has.
    await rig.outputs.open()
    rig.did()
    await rig.outputs.sync()
    assert rig.did() == []
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["files"]


async def test_what_may_not_leave_stays_and_the_model_is_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.outputs.open()
    rig.write("a.bin", b"\0" + TOKEN)
    rig.write(TOKEN.decode(), b"clean")
    rig.write("b", b"clean")
    await rig.outputs.sync()
    await rig.outputs.sync()
    assert rig.remote.left == {"b": b"clean"}
    assert sorted(rig.outputs.notices) == [
        "An output was not brought out of the sandbox: its name may not leave.",
        "The output 'a.bin' was not brought out of the sandbox: not text, and matches rules of the "
        "operator: github token (1).",
    ]
    assert kinds(rig).count("output.withheld") == 2
    assert TOKEN.decode() not in rig.audit.read_text()


async def test_an_output_waits_for_a_persons_word(tmp_path: Path) -> None:
    rig = Rig(tmp_path, asking())
    await rig.outputs.open()
    rig.write("a", b"key=" + TOKEN + b" AKIAIOSFODNN7EXAMPLE")
    rig.write("b", b"clean")
    await rig.outputs.sync()
    assert rig.remote.left == {"b": b"clean"}
    rig.people.answer = Answer(True)
    await rig.outputs.sync()
    assert rig.remote.left["a"] == b"key=" + TOKEN + b" [masked aws key]"
    assert len({asked.id for asked in rig.people.asked}) == 1
    assert all(asked.excerpt == "" for asked in rig.people.asked)
    assert rig.outputs.notices == []


async def test_a_refused_output_stays_until_it_changes(tmp_path: Path) -> None:
    rig = Rig(tmp_path, asking())
    await rig.outputs.open()
    rig.people.answer = Answer(False, "A person refused it.")
    rig.write("a", TOKEN)
    await rig.outputs.sync()
    await rig.outputs.sync()
    assert rig.remote.left == {}
    assert len(rig.outputs.notices) == 1
    rig.write("a", b"clean now")
    await rig.outputs.sync()
    assert rig.remote.left == {"a": b"clean now"}


async def test_what_a_killed_worker_left_half_sent_is_removed_and_sent_again(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    await rig.outputs.open()
    rig.write("a", b"kept")
    for name in ("copy", "clean"):
        (tmp_path / "home" / name).write_bytes(TOKEN)
    await rig.outputs.open()
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["files"]
    await rig.outputs.sync()
    assert rig.remote.left == {"a": b"kept"}
