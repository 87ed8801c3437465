"""What is committed is ours: nothing that was installed, built or fetched lies among it."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The longest file of ours is a lock with its hashes.
MAX_BYTES = 1024 * 1024


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("NO REPOSITORY: nothing tells what is committed")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_nothing_large_is_committed() -> None:
    large = [str(path.relative_to(ROOT)) for path in tracked() if _size(path) > MAX_BYTES]
    assert large == []


def test_nothing_that_is_ignored_is_committed() -> None:
    ignored = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--ignored", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert tracked()
    assert ignored.stdout == b""


def _size(path: Path) -> int:
    return path.lstat().st_size if path.exists() else 0
