import errno
import os
from pathlib import Path

import pytest

from intramuros.execution.sandbox.inside import paths
from intramuros.execution.sandbox.inside.paths import (
    Policy,
    ToolError,
    canonical,
    failure,
    phrase,
    within,
)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOENT, "no such file or directory"),
        (errno.ENOTDIR, "not a directory"),
        (errno.EISDIR, "is a directory"),
        (errno.EPERM, "permission denied"),
        (errno.EEXIST, "file already exists"),
        (errno.ELOOP, "too many levels of symbolic links"),
        (errno.ENOSPC, "no space left on device"),
    ],
)
def test_failures_have_fixed_words(code: int, words: str) -> None:
    assert phrase(OSError(code, "whatever")) == words
    assert str(failure("read", "a/b", OSError(code, "x"))) == f"read: a/b: {words}"


def test_within_knows_siblings_from_children() -> None:
    assert within("/a/b", "/a")
    assert within("/a", "/a")
    assert within("/a", "/")
    assert not within("/ab", "/a")


def test_paths_fold_and_follow(policy: Policy, workdir: Path) -> None:
    (workdir / "d").mkdir()
    (workdir / "f").touch()
    (workdir / "link").symlink_to("d")
    assert policy.resolve("d/../f") == f"{workdir}/f"
    assert policy.resolve("link/new/deep") == f"{workdir}/d/new/deep"
    assert policy.resolve(str(workdir)) == str(workdir)
    assert policy.resolve(f"{workdir.parent}/shared/x") == f"{workdir.parent}/shared/x"


@pytest.mark.parametrize("path", ["..", "/etc/passwd", "out/passwd", "dangling", "../workx"])
def test_what_leads_out_is_refused(policy: Policy, workdir: Path, path: str) -> None:
    (workdir / "out").symlink_to("/etc")
    (workdir / "dangling").symlink_to("/nowhere/at/all")
    with pytest.raises(ValueError, match="is outside the session's working directory"):
        policy.resolve(path)


def test_loops_and_nul_are_refused_with_a_reason(policy: Policy, workdir: Path) -> None:
    (workdir / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match="too many levels of symbolic links"):
        policy.resolve("loop")
    with pytest.raises(ValueError, match="embedded null byte"):
        policy.resolve("a\0b")


def test_a_file_is_no_directory(workdir: Path) -> None:
    (workdir / "f").touch()
    assert canonical(f"{workdir}/f/below") == f"{workdir}/f/below"


def test_long_chains_of_dangling_links_end(workdir: Path) -> None:
    for number in range(60):
        (workdir / f"l{number}").symlink_to(f"l{number + 1}")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        canonical(f"{workdir}/l0")


def test_read_only_roots_refuse_writes(policy: Policy, workdir: Path) -> None:
    store = f"{workdir.parent}/store"
    with pytest.raises(ToolError, match="write: x is inside read-only directory"):
        policy.reject_read_only("write", f"{store}/x", "x")
    policy.reject_read_only("write", f"{store}x", "x")


def test_without_other_roots_the_message_names_none(workdir: Path) -> None:
    with pytest.raises(ValueError, match=r"working directory$"):
        Policy(str(workdir), [], []).resolve("/")


def test_no_link_is_followed_on_the_way_to_a_canonical_path(workdir: Path) -> None:
    (workdir / "real").mkdir()
    (workdir / "real/f").write_text("inside")
    (workdir / "link").symlink_to("real")
    (workdir / "real/last").symlink_to("f")
    fd = paths.open_at(f"{workdir}/real/f", os.O_RDONLY)
    assert os.read(fd, 10) == b"inside"
    os.close(fd)
    for path, code in (("link/f", errno.ENOTDIR), ("real/last", errno.ELOOP)):
        with pytest.raises(OSError, match=r"Not a directory|Too many levels") as caught:
            paths.open_at(f"{workdir}/{path}", os.O_RDONLY)
        assert caught.value.errno == code


@pytest.mark.usefixtures("links_followed")
def test_no_directory_is_opened_through_a_link_even_where_the_kernel_would(workdir: Path) -> None:
    (workdir / "real").mkdir()
    (workdir / "link").symlink_to("real")
    (workdir / "file").touch()
    at = os.open(workdir, os.O_PATH)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for opened in (
        paths.open_directory("real", at),
        paths.open_directory(os.fsencode(workdir / "real")),
        paths.open_at(f"{workdir}/real", os.O_RDONLY | os.O_DIRECTORY),
    ):
        assert os.path.samestat(os.fstat(opened), (workdir / "real").stat())
        os.close(opened)
    for name in ("link", "file"):
        with pytest.raises(NotADirectoryError):
            paths.open_directory(name, at)
        with pytest.raises(NotADirectoryError):
            paths.open_at(f"{workdir}/{name}", os.O_RDONLY | os.O_DIRECTORY)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    os.close(at)


def test_descending_makes_directories_when_asked(workdir: Path) -> None:
    fd, name = paths.descend(f"{workdir}/a/b/c", make=True)
    assert name == "c"
    assert os.fstat(fd).st_ino == (workdir / "a/b").stat().st_ino
    os.close(fd)
    with pytest.raises(FileNotFoundError):
        paths.descend(f"{workdir}/x/y")
    (workdir / "file").touch()
    with pytest.raises(FileExistsError):
        paths.descend(f"{workdir}/file/y", make=True)
    with pytest.raises(NotADirectoryError):
        paths.descend(f"{workdir}/file/y/z", make=True)
    fd, name = paths.descend("/")
    assert name == "."
    os.close(fd)


def test_nothing_stays_open(workdir: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    os.close(paths.open_at(f"{workdir}", os.O_PATH))
    for path in ("missing/x", "missing"):
        with pytest.raises(FileNotFoundError):
            paths.open_at(f"{workdir}/{path}", os.O_RDONLY)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
