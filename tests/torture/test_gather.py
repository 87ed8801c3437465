"""What a world left running is found, however it hides."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from intramuros.execution.sandbox import bwrap
from tests.hosts import needs_sandboxes
from tests.torture.gather import processes_of

LIVES = "import sys; print(flush=True); sys.stdin.read()"


@contextmanager
def living(command: Sequence[str], *fds: int) -> Iterator[int]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=fds) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process.pid
        process.stdin.close()


def test_a_process_is_found_by_its_command(tmp_path: Path) -> None:
    with living([sys.executable, "-c", LIVES, f"{tmp_path}/audit.jsonl"]) as pid:
        assert [line.split()[0] for line in processes_of(tmp_path)] == [str(pid)]
        assert processes_of(tmp_path / "other") == []
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("name", ["effects", "with a blank"])
def test_a_process_in_a_sandbox_is_found_by_what_it_sees(tmp_path: Path, name: str) -> None:
    needs_sandboxes()
    seen = tmp_path / name / "worker.0"
    seen.mkdir(parents=True)
    # As with workers' sandboxes, the command does not say what is mounted.
    with TemporaryFile() as mounts:
        mounts.write("\0".join(["--ro-bind", "/", "/", "--bind", str(seen), "/mnt", ""]).encode())
        mounts.seek(0)
        fd = mounts.fileno()
        command = [str(bwrap.find_binary()), "--args", str(fd), sys.executable, "-c", LIVES]
        with living(command, fd):
            found = processes_of(tmp_path / name)
            assert any(LIVES in line for line in found), found
            assert processes_of(tmp_path / "other") == []
    assert processes_of(tmp_path / name) == []
