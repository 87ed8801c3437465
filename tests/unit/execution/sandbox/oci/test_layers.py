"""Layers that are well made, and layers that somebody made to get out or to fill the disk."""

import io
import os
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intramuros.execution.sandbox.oci.layers import (
    Allowance,
    BadImage,
    Unpacker,
    clean,
    rights,
)
from tests.fakes.oci_image import entry, layer

DIRECTORY, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def unpack(root: Path, *layers: bytes, allowance: Allowance | None = None) -> Path:
    root.mkdir(exist_ok=True)
    unpacker = Unpacker(str(root), allowance)
    try:
        for one in layers:
            unpacker.add(io.BytesIO(one))
        unpacker.finish()
    finally:
        unpacker.close()
    return root


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_files_directories_and_links(tmp_path: Path) -> None:
    root = unpack(
        tmp_path / "root",
        layer(
            [
                entry("./usr", kind=DIRECTORY, mode=0o755),
                entry("usr/bin/tool", b"#!", mode=0o4755, mtime=1234),
                entry("bin", kind=LINK, linkname="usr/bin"),
                entry("usr/bin/same", kind=HARD, linkname="usr/bin/tool"),
                entry("/absolute", b"x"),
            ]
        ),
    )
    assert tree(root) == {"usr", "usr/bin", "usr/bin/tool", "usr/bin/same", "bin", "absolute"}
    tool = (root / "usr/bin/tool").stat()
    assert tool.st_ino == (root / "usr/bin/same").stat().st_ino
    assert tool.st_mode & 0o7777 == 0o555  # no set-user-id bit
    assert tool.st_mtime == 1234
    assert (root / "bin").readlink() == Path("usr/bin")


def test_later_layers_replace_and_hide(tmp_path: Path) -> None:
    lower = layer(
        [entry("a/one", b"1"), entry("a/two", b"2"), entry("b/x", b"x"), entry("c", b"c")]
    )
    upper = layer(
        [
            entry("a/.wh.one"),
            entry("b/new/deep", b"n"),
            entry("b/.wh..wh..opq"),
            entry("c", kind=DIRECTORY),
            entry("c/inner", b"i"),
            entry(".wh.nothing"),
            entry("gone/.wh.x"),
        ]
    )
    root = unpack(tmp_path / "root", lower, upper)
    assert tree(root) == {"a", "a/two", "b", "b/new", "b/new/deep", "c", "c/inner"}


def test_a_whiteout_hides_a_tree_but_nothing_of_its_own_layer(tmp_path: Path) -> None:
    lower = layer([entry("a/b/c/d", b"1"), entry("keep", b"k")])
    upper = layer([entry("a", b"file"), entry(".wh.a")])
    root = unpack(tmp_path / "root", lower, upper)
    assert (root / "a").read_bytes() == b"file"
    root = unpack(tmp_path / "other", lower, layer([entry(".wh.a")]))
    assert tree(root) == {"keep"}


@pytest.mark.parametrize("name", ["../out", "a/../../out", "a/..", ".wh...", "/../x"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadImage):
        unpack(tmp_path / "root", layer([entry(name, b"x")]))
    assert not (tmp_path / "out").exists()


def test_links_lead_into_the_image_whatever_they_say(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    root = unpack(
        tmp_path / "root",
        layer(
            [
                entry(str(outside), kind=DIRECTORY),
                entry("deep/link", kind=LINK, linkname=str(outside)),
                entry("up", kind=LINK, linkname="../../../../../../.."),
                entry("deep/link/planted", b"x"),
                entry("up/planted", b"y"),
                entry("up/.wh.kept"),
                entry("deep/link/.wh..wh..opq"),
            ]
        ),
    )
    assert tree(outside) == {"kept"}
    assert (root / "planted").read_bytes() == b"y"
    assert (root / str(outside).lstrip("/") / "planted").read_bytes() == b"x"


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    root = unpack(
        tmp_path / "root",
        layer([entry("a", kind=LINK, linkname=str(victim))]),
        layer([entry("a", b"theirs")]),
    )
    assert victim.read_text() == "mine"
    assert not (root / "a").is_symlink()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_link_in_the_place_of_a_directory_is_not_given_its_rights(
    tmp_path: Path, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(0o700) if kind == "directory" else victim.touch(0o600)
    before = victim.stat().st_mode
    unpack(
        tmp_path / "root",
        layer(
            [
                entry("a", kind=DIRECTORY, mode=0o777),
                entry("a", kind=LINK, linkname=str(victim)),
                entry("b/c", kind=DIRECTORY, mode=0o777),
                entry("b", kind=LINK, linkname="b"),
            ]
        ),
    )
    assert victim.stat().st_mode == before


def test_a_hard_link_reaches_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    for target in ("../secret", str(tmp_path / "secret")):
        with pytest.raises(BadImage):
            unpack(tmp_path / "root", layer([entry("x", kind=HARD, linkname=target)]))
    through = [
        entry("l", kind=LINK, linkname=str(tmp_path)),
        entry("x", kind=HARD, linkname="l/secret"),
    ]
    with pytest.raises(BadImage):
        unpack(tmp_path / "root2", layer(through))
    linked = [entry("d", kind=DIRECTORY), entry("x", kind=HARD, linkname="d")]
    with pytest.raises(BadImage, match="links to a directory"):
        unpack(tmp_path / "root3", layer(linked))


def test_devices_and_pipes_are_left_out(tmp_path: Path) -> None:
    kinds = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    entries = [entry(f"dev/{n}", kind=kind, devmajor=1, devminor=3) for n, kind in enumerate(kinds)]
    assert tree(unpack(tmp_path / "root", layer(entries))) == set()


def test_too_much_is_refused(tmp_path: Path) -> None:
    big = layer([entry("a", bytes(600)), entry("b", bytes(600))])
    with pytest.raises(BadImage, match="more files or bytes"):
        unpack(tmp_path / "root", big, allowance=Allowance(size_bytes=1000))
    many = layer([entry(f"f{n}") for n in range(11)])
    with pytest.raises(BadImage, match="more files or bytes"):
        unpack(tmp_path / "root2", many, allowance=Allowance(entries=10))
    long = tarfile.TarInfo("x")
    long.pax_headers = {"comment": "y" * (2 << 20)}
    with pytest.raises(BadImage, match="description is too long"):
        unpack(tmp_path / "root3", layer([(long, b"")]))


def test_the_agent_gets_what_the_image_gives_him_and_no_more() -> None:
    def mode(value: int, uid: int = 0, gid: int = 0) -> int:
        return rights(entry("x", mode=value, uid=uid, gid=gid)[0])

    assert mode(0o640) == 0
    assert mode(0o640, uid=1000) == 0o444
    assert mode(0o640, gid=1000) == 0o444
    assert mode(0o750, gid=1000) == 0o555
    assert mode(0o4711) == 0o111
    assert mode(0o777) == 0o555


def test_closed_directories_stay_closed(tmp_path: Path) -> None:
    root = unpack(
        tmp_path / "root",
        layer([entry("root", kind=DIRECTORY, mode=0o700), entry("root/.profile", b"x")]),
    )
    assert (root / "root").stat().st_mode & 0o7777 == 0o500
    assert os.listdir(root) == ["root"]  # noqa: PTH208 - names alone


@pytest.mark.parametrize(
    "data", [b"\0" * 10, b"no archive" * 100, layer([entry("a", b"x" * 999)])[:700]]
)
def test_a_broken_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadImage):
        unpack(tmp_path / "root", data)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "a/b", "a/b/c", "../x", "/a", "b/.wh.a", "a/.wh..wh..opq"]),
            st.sampled_from([tarfile.REGTYPE, DIRECTORY, LINK, HARD, tarfile.FIFOTYPE]),
            st.sampled_from(["a", "b", "/", "..", "../../etc", "a/b", "/proc/self/root"]),
        ),
        max_size=12,
    )
)
def test_no_order_of_entries_leaves_the_image(entries: list[tuple[str, bytes, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "outside").mkdir()
        (place / "outside/kept").write_text("kept")
        made = [entry(name, b"", kind=kind, linkname=target) for name, kind, target in entries]
        with suppress(BadImage):
            unpack(place / "root", layer(made))
        assert tree(place / "outside") == {"kept"}
        assert {path.name for path in place.iterdir()} == {"outside", "root"}


def test_clean_names() -> None:
    assert clean("./a//b/") == "a/b"
    assert clean("/") == clean(".") == ""
    with pytest.raises(BadImage):
        clean("a\0b")
    with pytest.raises(BadImage):
        clean("x" * 5000)
