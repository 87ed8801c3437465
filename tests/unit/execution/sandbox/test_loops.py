import os
import subprocess
import sys
from pathlib import Path

import pytest

from intramuros.execution.sandbox import loops
from intramuros.execution.sandbox.drives import Drives


@pytest.fixture
def image(tmp_path: Path) -> int:
    lack = Drives(tmp_path).lack
    if lack:
        pytest.skip(f"no loop devices on this host: {lack}")
    (tmp_path / "image").write_bytes(bytes(1 << 20))
    return os.open(tmp_path / "image", os.O_RDWR | os.O_CLOEXEC)


def backing(path: str) -> str:
    try:
        return Path(f"/sys/block/{Path(path).name}/loop/backing_file").read_text().strip()
    except OSError:
        return ""


def test_a_device_lives_as_long_as_it_is_open(image: int, tmp_path: Path) -> None:
    path, device = loops.attach(image)
    os.close(image)
    assert backing(path) == str(tmp_path / "image")
    again = os.open(tmp_path / "image", os.O_RDWR | os.O_CLOEXEC)
    with pytest.raises(BlockingIOError):
        loops.attach(again)
    os.close(device)
    # The kernel gives it back a moment after the last descriptor is closed.
    for _ in range(2000):
        try:
            path, device = loops.attach(again)
            break
        except BlockingIOError:
            os.sched_yield()
    os.close(device)
    os.close(again)


BARE = """
import os, sys
from intramuros.execution.sandbox import loops
files = [os.open(name, os.O_RDWR) for name in sys.argv[1:]]
for path, device in map(loops.attach, files):
    os.write(device, b"there")
    print(path)
"""


def test_a_container_whose_dev_has_no_nodes_gets_them(image: int, tmp_path: Path) -> None:
    os.close(image)
    (tmp_path / "second").write_bytes(bytes(1 << 20))
    names = [str(tmp_path / "image"), str(tmp_path / "second")]
    # As `docker run --privileged` makes it: what the host had at the start, and nothing later.
    bare = 'mount -t tmpfs none /dev && mknod /dev/loop-control c 10 237 && exec "$@"'
    argv = ["unshare", "-m", "sh", "-ec", bare, "sh", sys.executable, "-c", BARE, *names]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 2
    for name in names:
        assert Path(name).read_bytes()[:5] == b"there"


def test_what_is_no_file_system_is_not_mounted(image: int) -> None:
    path, device = loops.attach(image)
    with pytest.raises(OSError, match="mount"):
        loops.mount(path, "ext4", ())
    with pytest.raises(OSError, match="fsopen"):
        loops.mount(path, "no-such-kind", ())
    os.close(device)
    os.close(image)


def test_a_directory_that_cannot_be_trimmed_says_so() -> None:
    fd = os.open("/proc", os.O_RDONLY)
    with pytest.raises(OSError):
        loops.trim(fd)
    os.close(fd)
