import os
import subprocess
from pathlib import Path

import pytest

from intramuros.execution.sandbox import records
from intramuros.execution.sandbox.records import (
    Identity,
    Record,
    Records,
    check_id,
    choose_uid,
    identify,
    is_alive,
    kill,
)

WHOLE = "         0          0 4294967295\n"
CONTAINER = "         0     100000      65536\n"


@pytest.mark.parametrize("sandbox_id", ["sesn_01H", "a", "A-b_9", "x" * 64])
def test_ids_that_can_be_file_names(sandbox_id: str) -> None:
    assert check_id(sandbox_id) == sandbox_id


@pytest.mark.parametrize("sandbox_id", ["", ".", "..", "a/b", "-a", "a b", "x" * 65, "a\n", "é"])
def test_ids_that_cannot(sandbox_id: str) -> None:
    with pytest.raises(ValueError, match="is not a sandbox id"):
        check_id(sandbox_id)


def test_uids_are_stable_distinct_and_never_ordinary() -> None:
    taken: set[int] = set()
    for number in range(200):
        uid = choose_uid(f"s{number}", WHOLE, taken)
        assert uid not in taken
        assert 0x6000_0000 <= uid < 0x7000_0000
        taken.add(uid)
    assert choose_uid("s1", WHOLE, set()) == choose_uid("s1", WHOLE, set())
    assert choose_uid("s1", WHOLE, {choose_uid("s1", WHOLE, set())}) in range(1 << 29, 1 << 31)


def test_in_a_container_uids_come_from_what_is_mapped() -> None:
    for number in range(50):
        assert 32768 <= choose_uid(f"s{number}", CONTAINER, set()) < 65536
    with pytest.raises(ValueError, match="no spare user ids"):
        choose_uid("s", "0 1000 1\n", set())
    with pytest.raises(ValueError, match="no spare user ids"):
        choose_uid("s", "", set())


def test_a_process_is_known_for_its_life_only() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        identity = identify(process.pid)
        assert identity
        assert is_alive(identity)
        assert not is_alive(Identity(identity.pid, identity.start_ticks + 1, identity.boot))
        assert not is_alive(Identity(identity.pid, identity.start_ticks, "another boot"))
        assert not kill(Identity(identity.pid, 0, identity.boot))
        assert kill(identity)
        process.wait()
    assert identify(process.pid) is None
    assert not kill(identity)


def test_a_zombie_does_not_count_as_alive() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert identify(process.pid) is None


def test_records_come_back_as_written(tmp_path: Path) -> None:
    kept = Records(tmp_path)
    me = identify(os.getpid())
    assert me
    whole = Record("one", me, outer=me, cgroups=["/x"], uid=7)
    kept.save(whole)
    kept.save(Record("two", me))
    assert kept.load("one") == whole
    assert [record.sandbox_id for record in kept.all()] == ["one", "two"]
    kept.remove("one")
    kept.remove("one")
    assert kept.load("one") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sandbox_id": "x"}', '{"outer": 5}'])
def test_records_that_cannot_be_read_are_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    assert Records(tmp_path).load("bad") is None
    assert Records(tmp_path).all() == []


def test_a_record_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Records(tmp_path)
    me = identify(os.getpid())
    assert me
    kept.save(Record("one", me, uid=1))
    monkeypatch.setattr(records.json, "dumps", lambda _value: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kept.save(Record("one", me, uid=2))
    loaded = kept.load("one")
    assert loaded
    assert loaded.uid == 1
