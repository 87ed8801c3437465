import os
import signal
import subprocess
from pathlib import Path

from intramuros.execution.sandbox import processes


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
