import json
from pathlib import Path

import pytest

from intramuros.control.upkeep import manifest
from intramuros.control.upkeep.attached import Place, fingerprint, sealer_of
from intramuros.control.upkeep.manifest import BadBackup, Content, Manifest
from intramuros.kernel.errors import OperatorError


def made(place: Place) -> Manifest:
    content = Content(3, "00")
    return Manifest(
        made_at="2026-11-21T00:00:00.000000Z",
        version="1",
        engine="sqlite",
        revision="0001",
        master_key=fingerprint(sealer_of(place.master_key)),
        audit_records=1,
        audit_hash="ab",
        rows={"events": 2},
        database=content,
        blob_list=content,
        blobs=0,
        blob_bytes=0,
        with_blobs=True,
        lost=("a", "b"),
    )


def test_it_is_read_as_it_was_written(place: Place, tmp_path: Path) -> None:
    sealer = sealer_of(place.master_key)
    manifest.write(tmp_path, made(place), sealer)
    assert manifest.read(tmp_path, sealer) == manifest.read(tmp_path, None) == made(place)


@pytest.mark.parametrize("member", ["rows", "lost", "revision", "with_blobs", "seal", "blobs"])
def test_any_change_is_seen(place: Place, tmp_path: Path, member: str) -> None:
    sealer = sealer_of(place.master_key)
    manifest.write(tmp_path, made(place), sealer)
    file = tmp_path / manifest.MANIFEST
    said = json.loads(file.read_text())
    said[member] = {"rows": {"events": 3}, "lost": ["a"], "with_blobs": False}.get(member, "0")
    file.write_text(json.dumps(said))
    with pytest.raises(BadBackup, match="was changed"):
        manifest.read(tmp_path, sealer)


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"seal": 1}', '{"format": null}', "\xff"])
def test_what_is_no_manifest_is_told(place: Place, tmp_path: Path, text: str) -> None:
    (tmp_path / manifest.MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises((BadBackup, OperatorError), match=r"is damaged|has the format"):
        manifest.read(tmp_path, sealer_of(place.master_key))


def test_a_member_more_or_less_is_damage(place: Place, tmp_path: Path) -> None:
    sealer = sealer_of(place.master_key)
    file = tmp_path / manifest.MANIFEST
    for change in ({"more": 1}, {"database": {}}, {"lost": None}):
        manifest.write(tmp_path, made(place), sealer)
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        with pytest.raises(BadBackup, match="is damaged"):
            manifest.read(tmp_path, sealer)


def test_a_directory_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="cannot read"):
        manifest.read(tmp_path / "file", None)


def test_files_are_compared_whole(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"abc" * 1_000_000)
    content = manifest.content_of(file)
    assert content.size_bytes == 3_000_000
    manifest.check_content(file, content)
    with pytest.raises(BadBackup, match="is damaged: 3000000 bytes of 2999999"):
        manifest.check_content(file, Content(2_999_999, content.sha256))
    with pytest.raises(BadBackup, match="cannot be read"):
        manifest.check_content(tmp_path / "absent", content)
