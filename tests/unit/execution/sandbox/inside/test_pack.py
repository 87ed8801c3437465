import contextlib
import io
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intramuros.execution.sandbox.inside import pack
from intramuros.execution.sandbox.inside.pack import Packer, PackError, Unpacker

META = b"\x01\xed" + bytes(8) + b"\0"


def packed(root: Path, mounted: set[bytes] = frozenset()) -> tuple[bytes, Packer]:
    out = io.BytesIO()
    packer = Packer(out.write, mounted)
    packer.pack({b"/w": os.fsencode(root)})
    return out.getvalue(), packer


def unpacked(stream: bytes, root: Path, limit: int = 1 << 30) -> Unpacker:
    root.mkdir(exist_ok=True)
    unpacker = Unpacker(io.BytesIO(stream).read, {b"/w": os.fsencode(root)}, limit)
    unpacker.unpack()
    return unpacker


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "from"
    root.mkdir()
    yield root


def look(root: Path) -> dict[str, tuple[object, ...]]:
    found = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        kind = stat.S_IFMT(info.st_mode)
        content: object = None
        if stat.S_ISREG(info.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            content = path.readlink()
        mode = None if stat.S_ISLNK(info.st_mode) else stat.S_IMODE(info.st_mode)
        found[str(path.relative_to(root))] = (kind, mode, info.st_mtime_ns, content)
    return found


def test_a_tree_comes_back_as_it_was(tree: Path, tmp_path: Path) -> None:
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/f").write_bytes(os.urandom(700_000))
    (tree / "a/b/f").chmod(0o640)
    (tree / "empty").touch()
    (tree / "a/out").symlink_to("/etc/passwd")
    (tree / "dangling").symlink_to("nowhere")
    os.mkfifo(tree / "pipe", 0o600)
    (tree / "a").chmod(0o2750)
    strange = os.fsdecode(b"\xff\n name")
    (tree / strange).write_text("x")
    os.utime(tree / "empty", ns=(5, 123_456_789))
    stream, packer = packed(tree)
    target = tmp_path / "to"
    assert unpacked(stream, target).entries == packer.entries == 8
    assert look(target) == look(tree)


def test_hard_links_stay_one_file_and_holes_stay_holes(tree: Path, tmp_path: Path) -> None:
    (tree / "d").mkdir()
    (tree / "one").write_text("x")
    os.link(tree / "one", tree / "d/two")
    with (tree / "sparse").open("wb") as file:
        file.seek(300_000_000)
        file.write(b"end")
        file.truncate(600_000_000)
    stream, packer = packed(tree)
    assert len(stream) < 1_000_000
    assert packer.data_bytes < 1_000_000
    target = tmp_path / "to"
    unpacked(stream, target)
    assert (target / "one").stat().st_ino == (target / "d/two").stat().st_ino
    assert (target / "sparse").stat().st_size == 600_000_000
    assert (target / "sparse").stat().st_blocks * 512 < 1_000_000
    with (target / "sparse").open("rb") as file:
        file.seek(300_000_000)
        assert file.read(3) == b"end"


def test_extended_attributes_stay(tree: Path, tmp_path: Path) -> None:
    (tree / "f").touch()
    (tree / "d").mkdir()
    try:
        os.setxattr(tree / "f", "user.mark", b"\0\xff")
        os.setxattr(tree / "d", "user.empty", b"")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    stream, _ = packed(tree)
    target = tmp_path / "to"
    assert unpacked(stream, target).attributes_lost == 0
    assert os.getxattr(target / "f", "user.mark") == b"\0\xff"
    assert os.getxattr(target / "d", "user.empty") == b""


def test_files_that_are_closed_to_their_owner_are_kept(tree: Path, tmp_path: Path) -> None:
    (tree / "d").mkdir()
    (tree / "d/f").write_text("hidden")
    (tree / "d/f").chmod(0)
    (tree / "d").chmod(0)
    stream, _ = packed(tree)
    assert stat.S_IMODE((tree / "d").stat().st_mode) == 0
    target = tmp_path / "to"
    unpacked(stream, target)
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0
    for root in (tree, target):
        (root / "d").chmod(0o700)
        assert stat.S_IMODE((root / "d/f").stat().st_mode) == 0
        (root / "d/f").chmod(0o600)
    assert (target / "d/f").read_text() == "hidden"


def test_what_would_run_as_somebody_else_does_not(tree: Path) -> None:
    (tree / "f").touch()
    (tree / "f").chmod(0o6755)
    stream, _ = packed(tree)
    assert b"F\0\x01f\x01\xed" in stream


def test_sockets_and_mounts_are_left_out(tree: Path, tmp_path: Path) -> None:
    (tree / "m").mkdir()
    (tree / "m/secret").touch()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "s"))
        stream, packer = packed(tree, {os.fsencode(tree / "m")})
    assert packer.sockets == [str(tree / "s")]
    target = tmp_path / "to"
    unpacked(stream, target)
    assert look(target) == {}


def test_a_directory_that_a_mount_made_will_do(tree: Path, tmp_path: Path) -> None:
    (tree / "a").mkdir()
    (tree / "a/f").write_text("x")
    stream, _ = packed(tree)
    target = tmp_path / "to"
    (target / "a").mkdir(parents=True)
    unpacked(stream, target)
    assert (target / "a/f").read_text() == "x"


def test_too_deep_and_too_many_are_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "/".join("d" * 3)).mkdir(parents=True)
    monkeypatch.setattr(pack, "MAX_DEPTH", 2)
    with pytest.raises(PackError, match="deeply"):
        packed(tree)
    monkeypatch.setattr(pack, "MAX_DEPTH", 3)
    monkeypatch.setattr(pack, "MAX_ENTRIES", 2)
    with pytest.raises(PackError, match="more than 2"):
        packed(tree)


def test_mount_points_are_those_of_the_kernel(tmp_path: Path) -> None:
    assert b"/proc" in pack.mount_points()
    assert pack._unescaped(rb"/a\040b\134c") == b"/a b\\c"


def node(kind: bytes, name: bytes, rest: bytes) -> bytes:
    return kind + len(name).to_bytes(2, "big") + name + rest


FILE = META + (4).to_bytes(8, "big") + b"d" + bytes(8) + (4).to_bytes(4, "big") + b"evile"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (node(b"F", b"../out", FILE), "name"),
        (node(b"F", b"/abs", FILE), "name"),
        (node(b"F", b"..", FILE), "name"),
        (node(b"D", b".", META + b"."), "name"),
        (node(b"F", b"", FILE), "name"),
        (node(b"F", b"a\0b", FILE), "name"),
        (node(b"F", b"x" * 256, FILE), "name"),
        (node(b"F", b"s", b"\x09\xed" + FILE[2:]), "somebody else"),
        (node(b"D", b"d", b"\x08\x00" + META[2:] + b"."), "somebody else"),
        (node(b"H", b"h", (0).to_bytes(4, "big")), "no file"),
        (node(b"B", b"dev", META), "unknown"),
        (node(b"F", b"big", META + (1 << 62).to_bytes(8, "big") + b"e"), "too large"),
        (
            node(b"F", b"f", META + bytes(8) + b"d" + bytes(8) + (1).to_bytes(4, "big") + b"xe"),
            "larger",
        ),
        (
            node(
                b"F",
                b"f",
                META[:-1] + b"\1" + b"\0\x08security" + bytes(4) + bytes(8) + b"e",
            ),
            "not a user's",
        ),
        (node(b"F", b"f", META + bytes(8) + b"x"), "does not end"),
        (b"", "cut short"),
    ],
)
def test_a_stream_that_leads_elsewhere_is_refused(tmp_path: Path, body: bytes, why: str) -> None:
    inside = tmp_path / "in"
    stream = pack.MAGIC + b"R\0\x02/w" + META + body
    with pytest.raises(PackError, match=why):
        unpacked(stream, inside)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.usefixtures("links_followed")
def test_a_link_is_never_walked_through(tmp_path: Path) -> None:
    """A directory entry of the name of a link that the stream made itself."""
    outside, inside = tmp_path / "outside", tmp_path / "in"
    outside.mkdir()
    target = os.fsencode(outside)
    body = node(b"L", b"x", bytes(8) + len(target).to_bytes(2, "big") + target)
    body += node(b"D", b"x", META + node(b"F", b"f", FILE) + b".") + b".Z"
    with pytest.raises(OSError, match="x"):
        unpacked(pack.MAGIC + b"R\0\x02/w" + META + body, inside)
    assert list(outside.iterdir()) == []


def test_other_roots_twice_the_same_and_trailing_bytes_are_refused(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    root = b"R\0\x02/w" + META + b"."
    unpacked(pack.MAGIC + root + b"Z", inside)
    for stream in (
        pack.MAGIC + b"R\0\x04/etc" + META + b".Z",
        pack.MAGIC + root + root + b"Z",
        pack.MAGIC + root + b"Zmore",
        pack.MAGIC + root,
        b"tar" + root + b"Z",
    ):
        with pytest.raises(PackError):
            unpacked(stream, inside)


def test_data_is_bounded(tree: Path, tmp_path: Path) -> None:
    (tree / "f").write_bytes(bytes(range(256)) * 64)
    stream, _ = packed(tree)
    target = tmp_path / "to"
    with pytest.raises(PackError, match="larger"):
        unpacked(stream, target, limit=1000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.binary(max_size=400), at=st.integers(0, 300), cut=st.integers(0, 8))
def test_a_damaged_stream_never_writes_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    source, inside = folder / "from", folder / "in"
    (source / "d").mkdir(parents=True)
    (source / "d/f").write_text("x" * 50)
    (source / "l").symlink_to("/")
    stream = packed(source)[0]
    start = len(pack.MAGIC) + 5 + at
    damaged = stream[:start] + data[:cut] + stream[start + cut :]
    with contextlib.suppress(PackError, OSError):
        unpacked(damaged, inside)
    assert sorted(path.name for path in folder.iterdir()) == ["from", "in"]
