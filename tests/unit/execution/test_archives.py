import contextlib
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intramuros.execution import archives
from intramuros.execution.archives import BadArchive, unpack

Files = dict[str, bytes]
FILES: Files = {"calc/SKILL.md": b"text", "calc/bin/go": b"#!/bin/sh\n"}


def zip_of(files: Files, *more: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            mode = 0o4777 if name.endswith("go") else 0o600
            info.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(info, data)
        for info, data in more:
            archive.writestr(info, data)
    return made.getvalue()


def tar_of(files: Files, *more: tarfile.TarInfo, mode: str = "w") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o6777 if name.endswith("go") else 0o600
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    return made.getvalue()


def unpacked(data: bytes, folder: Path) -> dict[str, int]:
    archive, target = folder / "archive", folder / "skill"
    archive.write_bytes(data)
    unpack(archive, target)
    found = [path for path in target.rglob("*") if not path.is_dir() or path.is_symlink()]
    return {str(path.relative_to(target)): path.lstat().st_mode for path in found}


def link(name: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd"
    return info


@pytest.mark.parametrize(
    "data",
    [zip_of(FILES), *(tar_of(FILES, mode=f"w{kind}") for kind in ("", ":gz", ":bz2", ":xz"))],
    ids=["zip", "tar", "gz", "bz2", "xz"],
)
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_c24_4_c24_5_the_wrapper_goes_and_modes_are_two(
    data: bytes, umask: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        assert unpacked(data, tmp_path) == {
            "SKILL.md": stat.S_IFREG | 0o644,
            "bin/go": stat.S_IFREG | 0o755,
        }
        assert stat.S_IMODE((tmp_path / "skill/bin").stat().st_mode) == 0o755
    finally:
        os.umask(before)


def test_c24_4_without_one_wrapper_nothing_is_stripped(tmp_path: Path) -> None:
    assert set(unpacked(zip_of({"a/x": b"", "b/y": b""}), tmp_path)) == {"a/x", "b/y"}
    (tmp_path / "2").mkdir()
    assert set(unpacked(zip_of({"SKILL.md": b"", "calc/y": b""}), tmp_path / "2")) == {
        "SKILL.md",
        "calc/y",
    }


@pytest.mark.parametrize(
    "name", ["../x", "calc/../../x", "/etc/x", "calc/./../../x", "a\\..\\x", "a/\x01"]
)
@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_c24_4_paths_that_leave_abort_the_skill(make, name: str, tmp_path: Path) -> None:
    with pytest.raises(BadArchive):
        unpacked(make({**FILES, name: b"evil"}), tmp_path)
    assert not (tmp_path / "x").exists()
    assert not (tmp_path.parent / "x").exists()


def test_c24_5_links_and_devices_are_left_out(tmp_path: Path) -> None:
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
    odd = [link(f"calc/odd{n}", kind) for n, kind in enumerate(kinds)]
    assert set(unpacked(tar_of(FILES, *odd), tmp_path)) == {"SKILL.md", "bin/go"}
    (tmp_path / "2").mkdir()
    info = zipfile.ZipInfo("calc/link")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    data = zip_of(FILES, (info, b"/etc/passwd"))
    assert set(unpacked(data, tmp_path / "2")) == {"SKILL.md", "bin/go"}


def test_nothing_is_written_through_what_was_written_before(tmp_path: Path) -> None:
    for number, make in enumerate((zip_of, tar_of)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(BadArchive):
            unpacked(make({"a/x": b"file", "a/x/y": b"below a file"}), folder)
    twice = io.BytesIO()
    with tarfile.open(fileobj=twice, mode="w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("a/x"))
    (tmp_path / "twice").mkdir()
    with pytest.raises(BadArchive):
        unpacked(twice.getvalue(), tmp_path / "twice")


def test_sizes_and_counts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = b"\x00" * 200_000
    many = {f"a/{n}": b"" for n in range(50)}
    monkeypatch.setattr(archives, "MAX_BYTES", 100_000)
    monkeypatch.setattr(archives, "MAX_FILES", 40)
    skipped = tarfile.TarInfo("calc/device")
    skipped.type, skipped.size = b"Z", 200_000
    cases = [
        zip_of({"a/zeros": bomb}),
        tar_of({"a/zeros": bomb}, mode="w:gz"),
        zip_of(many),
        tar_of(many),
        zip_of({"a/x": bomb[:60_000], "a/y": bomb[:60_000]}),
        tar_of(FILES, skipped),
    ]
    for number, data in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(BadArchive):
            unpacked(data, folder)


def test_a_long_header_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a/x")
    info.pax_headers = {"comment": "x" * 5_000_000}
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    with pytest.raises(BadArchive, match="too long"):
        unpacked(made.getvalue(), tmp_path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no", b"\x1f\x8b\x08", b"plain text" * 100])
def test_what_is_no_archive_is_said_to_be_none(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadArchive):
        unpacked(data, tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_any_damage_ends_well_or_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    good = bytearray(data.draw(st.sampled_from([zip_of(FILES), tar_of(FILES)])))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path / os.urandom(8).hex()
    folder.mkdir()
    with contextlib.suppress(BadArchive):
        unpacked(bytes(good), folder)
    allowed = {"archive", "skill", "skill.held"}
    assert {path.name for path in folder.iterdir()} <= allowed
    assert not any(path.is_symlink() for path in folder.rglob("*"))
