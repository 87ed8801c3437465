import os
from pathlib import Path

import pytest

from intramuros.execution.journal import Held, Journal, Progress, Result

RESULT = Result([{"type": "text", "text": "ü\n"}], is_error=True)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_call_goes_from_unknown_to_forgotten(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert journal.progress("s", "c") == (Progress.UNKNOWN, None)
    journal.start("s", "c")
    assert journal.progress("s", "c") == (Progress.STARTED, None)
    journal.finish("s", "c", RESULT)
    assert Journal(tmp_path / "j").progress("s", "c") == (Progress.DONE, RESULT)
    journal.settle("s", "c")
    assert journal.progress("s", "c") == (Progress.UNKNOWN, None)
    assert files(tmp_path) == []


def test_an_empty_directory_is_tidied_and_a_full_one_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.start("s", "c")
    journal.tidy("s")
    assert journal.progress("s", "c") == (Progress.STARTED, None)
    journal.settle("s", "c")
    journal.tidy("s")
    journal.tidy("never seen")
    assert list((tmp_path / "j").iterdir()) == []


def test_only_what_was_noted_is_looked_for_on_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert not journal.noted("s", "c")
    journal.start("s", "c")
    assert journal.noted("s", "c")
    assert Journal(tmp_path / "j").noted("s", "c")


def test_calls_of_other_sessions_are_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.start("s1", "c")
    assert journal.progress("s2", "c") == (Progress.UNKNOWN, None)
    journal.forget("s1")
    journal.forget("never seen")
    assert journal.progress("s1", "c") == (Progress.UNKNOWN, None)


def test_a_result_may_be_noted_without_a_start(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.finish("s", "c", RESULT)
    assert journal.progress("s", "c") == (Progress.DONE, RESULT)


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"content": 1}', b'{"content": [1]}', b"\xff"]
)
def test_a_damaged_result_counts_as_started(tmp_path: Path, damage: bytes) -> None:
    journal = Journal(tmp_path / "j")
    journal.finish("s", "c", RESULT)
    (done,) = files(tmp_path)
    done.write_bytes(damage)
    assert journal.progress("s", "c") == (Progress.STARTED, None)


def test_a_write_cut_short_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "j")
    journal.start("s", "c")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(OSError, match="No space"):
        journal.finish("s", "c", RESULT)
    assert journal.progress("s", "c") == (Progress.STARTED, None)


def test_ids_cannot_name_a_path_outside(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for session_id, call_id in (
        ("../x", "../../y"),
        ("/abs", "a/b"),
        ("", "."),
        ("x" * 999, "y" * 999),
    ):
        journal.start(session_id, call_id)
        assert journal.progress(session_id, call_id) == (Progress.STARTED, None)
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")} == {"j"}


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.finish("s", "c", RESULT)
    for path in (tmp_path / "j").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_what_is_held_back_is_kept_whole_and_is_no_result(tmp_path: Path) -> None:
    held = Held(RESULT, {"id": "c"}, [{"type": "text", "text": "withheld"}])
    journal = Journal(tmp_path / "j")
    journal.hold("s", "c", held)
    after = Journal(tmp_path / "j")
    assert after.progress("s", "c") == (Progress.HELD, None)
    assert after.held("s", "c") == held
    (file,) = files(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    after.finish("s", "c", RESULT)
    assert after.progress("s", "c") == (Progress.DONE, RESULT)
    assert after.held("s", "c") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'{"held": 1}',
        b'{"held": {"content": [], "is_error": false}}',
        b'{"held": {"content": [1], "question": {}, "denied": []}}',
        b'{"held": {"content": [], "question": [], "denied": []}}',
    ],
)
def test_a_damaged_note_holds_nothing(tmp_path: Path, data: bytes) -> None:
    journal = Journal(tmp_path / "j")
    journal.start("s", "c")
    (file,) = files(tmp_path)
    file.write_bytes(data)
    assert journal.held("s", "c") is None
