import subprocess
from pathlib import Path

import pytest

from intramuros.execution.sandbox.base import SandboxUnavailable
from intramuros.execution.sandbox.oci.carried import carry, has_program
from intramuros.execution.sandbox.rootfs import PYTHON_TARGET, Python, find_python


@pytest.mark.timeout(240)
def test_copies_run_by_their_own_loader(tmp_path: Path) -> None:
    carried = carry(tmp_path, find_python())
    assert carry(tmp_path, find_python()) == carried
    assert [path.name for path in tmp_path.iterdir()] == [carried.directory.name]
    moved = [word.replace(PYTHON_TARGET, str(carried.directory)) for word in carried.python.loader]
    python = carried.python.inside.replace(PYTHON_TARGET, str(carried.directory))
    code = "import sys, _ctypes, fcntl, select, resource, json, re; print(sys.prefix)"
    done = subprocess.run([*moved, python, "-I", "-S", "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().strip() == str(carried.directory)
    script = carried.bash.replace(PYTHON_TARGET, str(carried.directory))
    done = subprocess.run(
        ["/bin/sh", "-c", script], input=b"echo $BASH", capture_output=True, check=True
    )
    assert done.stdout
    assert carried.python.path.endswith(f":{PYTHON_TARGET}/bin")


def test_an_interpreter_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="cannot be carried"):
        carry(tmp_path, Python("/no/such/python3"))
    assert list(tmp_path.iterdir()) == []


def test_programs_are_looked_for_in_the_image_alone(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    # An image may point anywhere; the host's own shell is not the image's.
    (tmp_path / "bin").symlink_to("/bin")
    assert not has_program(tmp_path, "sh")
    (tmp_path / "usr/bin/sh").symlink_to("/nowhere/busybox")
    assert has_program(tmp_path, "sh")
