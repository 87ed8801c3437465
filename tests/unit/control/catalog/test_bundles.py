import io
import stat
import zipfile
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.catalog import bundles
from intramuros.control.catalog.bundles import Entry, pack, spooled, unzipped
from intramuros.kernel.errors import InvalidRequest, TooLarge
from intramuros.protocol.resources.skills import MAX_SKILL_BYTES, Manifest

TEXT = b"---\nname: calc\ndescription: Adds\n---\nAdd.\n"


def entry(path: str, data: bytes = b"x", executable: bool | None = None) -> Entry:
    def read() -> Iterator[bytes]:
        yield data

    return Entry(path, read, executable)


def packed(*entries: Entry) -> tuple[Manifest, zipfile.ZipFile, bytes]:
    target = io.BytesIO()
    manifest = pack(entries, target)
    return manifest, zipfile.ZipFile(target), target.getvalue()


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> io.BytesIO:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return made


def repacked(source: io.BytesIO) -> zipfile.ZipFile:
    target = io.BytesIO()
    with unzipped(source) as entries:
        pack(entries, target)
    return zipfile.ZipFile(target)


def test_R197_an_archive_has_one_top_directory_named_after_the_skill() -> None:
    files = [
        entry("upload/run.sh", b"#!/bin/sh\n"),
        entry("upload/SKILL.md", TEXT),
        entry("upload/a/b.bin", b"\x00" * 100_000),
        entry("upload/plain.sh", b"#!/bin/sh\n", executable=False),
    ]
    manifest, archive, data = packed(*files)
    assert manifest == Manifest("calc", "Adds")
    modes = {i.filename: i.external_attr >> 16 for i in archive.infolist()}
    assert modes == {
        "calc/SKILL.md": stat.S_IFREG | 0o644,
        "calc/a/b.bin": stat.S_IFREG | 0o644,
        "calc/plain.sh": stat.S_IFREG | 0o644,
        "calc/run.sh": stat.S_IFREG | 0o755,
    }
    assert archive.read("calc/a/b.bin") == b"\x00" * 100_000
    # The same files in another order are the same bytes.
    assert packed(*reversed(files))[2] == data


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "files\\[\\]"),
        (["SKILL.md"], "one top directory"),
        (["a/SKILL.md", "b/x"], "one top directory"),
        (["a/x"], "a/SKILL.md is missing"),
        (["a/b/SKILL.md"], "a/SKILL.md is missing"),
        (["a/SKILL.md", "a/x", "a/x"], "appears twice"),
        (["a/SKILL.md", "a/x", "a/x/y"], "lies below a file"),
        (["a/SKILL.md", "a/../../x"], "plain relative path"),
        (["a/SKILL.md", *(f"a/{n}" for n in range(2000))], "at most 2000"),
    ],
)
def test_R191_files_that_are_no_skill_are_refused(paths: list[str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        packed(*(entry(path, TEXT) for path in paths))


def test_R191_a_skill_is_below_30_mb_whatever_a_zip_says() -> None:
    bomb = zipped(("a/SKILL.md", TEXT))
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/zeros", b"\x00" * MAX_SKILL_BYTES)
    assert len(bomb.getvalue()) < 100_000
    with pytest.raises(TooLarge):
        repacked(bomb)


def test_R190_a_zip_is_unpacked_and_keeps_executable_bits() -> None:
    script = zipfile.ZipInfo("up/go")
    script.create_system = 3
    script.external_attr = (stat.S_IFREG | 0o4775) << 16
    archive = repacked(zipped(("up/", b""), ("up/SKILL.md", TEXT), (script, b"x")))
    modes = {i.filename: i.external_attr >> 16 for i in archive.infolist()}
    assert modes["calc/go"] == stat.S_IFREG | 0o755


def test_R197_links_and_special_files_are_refused() -> None:
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
        link = zipfile.ZipInfo("a/link")
        link.create_system = 3
        link.external_attr = (kind | 0o777) << 16
        with pytest.raises(InvalidRequest, match="link or a special file"):
            repacked(zipped(("a/SKILL.md", TEXT), (link, b"/etc/passwd")))


def test_a_damaged_or_huge_zip_directory_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="damaged"):
        repacked(io.BytesIO(b"no zip at all"))
    many = zipped(*((f"a/{n:0200}", b"") for n in range(9000)))
    with pytest.raises(InvalidRequest, match="damaged"):
        repacked(many)
    good = bytearray(zipped(("a/SKILL.md", TEXT * 50)).getvalue())
    good[60] ^= 0xFF
    with pytest.raises(InvalidRequest, match="damaged"):
        repacked(io.BytesIO(bytes(good)))


def test_unusual_compression_is_refused() -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a/SKILL.md", TEXT)
    with pytest.raises(InvalidRequest, match="unusual way"):
        repacked(made)


@given(st.data())
def test_any_damage_to_a_zip_is_a_refusal(data: st.DataObject) -> None:
    good = bytearray(zipped(("a/SKILL.md", TEXT), ("a/b", b"y" * 50)).getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        archive = repacked(io.BytesIO(bytes(good)))
    except (InvalidRequest, TooLarge):
        return
    assert all(name.startswith("calc/") or "/" in name for name in archive.namelist())


def test_parts_of_a_spool_are_read_again_and_again() -> None:
    source = io.BytesIO(b"aaabbbccc")
    read = spooled(source, 3, 3)
    assert [b"".join(read()) for _ in range(2)] == [b"bbb", b"bbb"]
    assert bundles.too_large().message.startswith("files:")
