import os
import signal
import subprocess
from pathlib import Path

import pytest

from intramuros.execution.sandbox import processes
from intramuros.execution.sandbox.trees import Hidden


def test_descendants_are_found_nearest_first() -> None:
    assert processes.descendants(1, {2: 1, 3: 1, 4: 2, 5: 4, 9: 8}) == [2, 3, 4, 5]
    assert processes.descendants(7, {2: 1}) == []


def test_our_own_parent_is_known() -> None:
    assert processes.parents()[os.getpid()] == os.getppid()


def test_names_with_blanks_and_brackets_do_not_confuse(tmp_path: Path) -> None:
    (tmp_path / "12").mkdir()
    (tmp_path / "12/stat").write_text("12 (a) b (c) S 7 12 12 0 -1\n")
    (tmp_path / "13").mkdir()
    (tmp_path / "self").mkdir()
    assert processes.parents(tmp_path) == {12: 7}
    assert processes.first_child(7, tmp_path) == 12
    assert processes.first_child(12, tmp_path) is None


def test_a_tree_stops_and_goes_on() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & wait"], process_group=0) as shell:
        while len(processes.descendants(shell.pid, processes.parents())) < 2:
            pass
        below = processes.descendants(shell.pid, processes.parents())
        processes.signal_tree(shell.pid, signal.SIGSTOP)
        assert {state(pid) for pid in below} == {"T"}
        processes.signal_tree(shell.pid, signal.SIGCONT)
        assert "T" not in {state(pid) for pid in below}
        os.killpg(shell.pid, signal.SIGKILL)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def closed_process(proc: Path, msgqueue: str) -> None:
    (proc / "7").mkdir()
    (proc / "7/limits").write_text(
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        f"Max msgqueue size         {msgqueue:<20} {msgqueue:<20} bytes     \n"
    )


@pytest.mark.parametrize(("msgqueue", "hides"), [("0", True), ("819200", False)])
def test_a_closed_process_hides_unless_it_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, msgqueue: str, hides: bool
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError

    closed_process(tmp_path, msgqueue)
    monkeypatch.setattr(Path, "iterdir", refuse)
    if hides:
        with pytest.raises(Hidden):
            list(processes.opened(7, tmp_path))
    else:
        assert list(processes.opened(7, tmp_path)) == []


def test_a_closed_process_without_limits_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError

    closed_process(tmp_path, "819200")
    (tmp_path / "7/limits").write_text("")
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(Hidden):
        list(processes.opened(7, tmp_path))


def test_what_is_open_is_listed_and_what_is_gone_is_not(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        inode = os.fstat(file.fileno()).st_ino
        assert inode in {info.st_ino for info in processes.opened(os.getpid())}
    assert list(processes.opened(7, tmp_path)) == []
