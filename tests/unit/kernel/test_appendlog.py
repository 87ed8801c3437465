import errno
import os
import stat
from pathlib import Path

import pytest

from intramuros.kernel.appendlog import MAX_LINE_BYTES, AppendLog, read_lines
from intramuros.kernel.errors import OperatorError


def test_lines_survive_and_are_private_to_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.jsonl"
    with AppendLog(path) as log:
        assert log.last_line is None
        log.append("one")
        log.append("zwei — ü")
        assert log.last_line == "zwei — ü"
    assert list(read_lines(path)) == ["one", "zwei — ü"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with AppendLog(path) as log:
        assert log.last_line == "zwei — ü"


@pytest.mark.parametrize("torn", ["t", "three, cut in the mid", "ü".encode()[:1].decode("latin-1")])
def test_a_torn_tail_is_cut_and_the_log_goes_on(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"one\ntwo\n" + torn.encode("latin-1"))
    assert list(read_lines(path)) == ["one", "two"]
    with AppendLog(path) as log:
        assert log.last_line == "two"
        log.append("three")
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_a_file_of_nothing_but_a_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"never acknowledged")
    with AppendLog(path) as log:
        assert log.last_line is None
    assert path.read_bytes() == b""


def test_the_longest_line_survives_a_reopening(tmp_path: Path) -> None:
    path, longest = tmp_path / "audit.jsonl", "x" * (MAX_LINE_BYTES - 1)
    with AppendLog(path) as log:
        log.append("before")
        log.append(longest)
    with path.open("ab") as file:
        file.write(b"y" * (MAX_LINE_BYTES - 1))
    with AppendLog(path) as log:
        assert log.last_line == longest


@pytest.mark.parametrize("line", ["two\nlines", "\n", "x" * MAX_LINE_BYTES])
def test_what_is_not_one_bounded_line_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "audit.jsonl"
    with AppendLog(path) as log, pytest.raises(ValueError, match="one line"):
        log.append(line)
    assert path.read_bytes() == b""


def test_one_process_owns_a_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AppendLog(path), pytest.raises(OperatorError, match="in use by another process"):
        AppendLog(path)
    AppendLog(path).close()


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="cannot open"):
        AppendLog(tmp_path / "file" / "audit.jsonl")


def test_a_full_disk_leaves_nothing_of_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with AppendLog(path) as log:
        log.append("one")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", full)
            with pytest.raises(OSError, match="No space"):
                log.append("two")
        assert log.last_line == "one"
        log.append("three")
    assert list(read_lines(path)) == ["one", "three"]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    with AppendLog(tmp_path / "audit.jsonl") as log:
        log.append("a line of many bytes")
    assert list(read_lines(tmp_path / "audit.jsonl")) == ["a line of many bytes"]
