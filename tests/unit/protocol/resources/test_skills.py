import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.protocol.resources.skills import (
    Manifest,
    display_name,
    read_manifest,
    safe_path,
    slug,
)


def manifest(front: str, folder: str = "folder") -> Manifest:
    return read_manifest(f"---\n{front}\n---\n# Text\n---\n".encode(), folder)


def test_the_front_matter_names_and_describes() -> None:
    assert manifest("name: pdf-forms\ndescription: |\n  Fills\n  forms\nlicense: MIT") == Manifest(
        "pdf-forms", "Fills\n  forms".replace("  ", "")
    )
    assert (
        read_manifest(b"\xef\xbb\xbf---\r\nname: a\r\ndescription: d\r\n---\r\n", "x").name == "a"
    )


def test_R192_the_folder_names_a_skill_without_a_name() -> None:
    assert manifest("description: d").name == "folder"
    with pytest.raises(ValueError, match="name:"):
        manifest("description: d", "My Folder")


@pytest.mark.parametrize(
    "bad", ["Upper", "under_score", "x" * 65, "-first", "a b", "claude-x", "my-anthropic", "<b>x"]
)
def test_R192_a_name_is_a_slug_without_reserved_words(bad: str) -> None:
    with pytest.raises(ValueError, match="name:"):
        slug(bad)
    assert slug("x" * 64)


@pytest.mark.parametrize(
    "front",
    [
        "name: a",
        "name: a\ndescription: ''",
        "name: a\ndescription: [x]",
        f"name: a\ndescription: {'x' * 1025}",
        "name: a\ndescription: use <tool>x</tool>",
    ],
)
def test_R193_a_description_is_bounded_plain_text(front: str) -> None:
    with pytest.raises(ValueError, match="description:"):
        manifest(front)
    assert manifest("name: a\ndescription: sizes < 3 and > 1").description


@pytest.mark.parametrize(
    "head",
    [b"", b"# no front matter", b"---\nname: a\n", b"---\n[1\n---\n", b"---\n- a\n---\n", b"\xff"],
)
def test_what_is_no_front_matter_is_said_to_be_none(head: bytes) -> None:
    with pytest.raises(ValueError, match=r"SKILL\.md"):
        read_manifest(head, "x")


def test_R194_a_display_name_is_one_line() -> None:
    assert display_name("Fills forms, quickly: é") == "Fills forms, quickly: é"
    for bad in ("", "two\nlines", "x" * 256):
        with pytest.raises(ValueError, match="display_name"):
            display_name(bad)


@pytest.mark.parametrize(
    "bad",
    ["", "/abs", "a//b", "a/../b", "../x", "a/./b", "a\\b", "a/\x00", "a/", "x" * 256, "a/\ud800"],
)
def test_R197_paths_stay_within_the_skill(bad: str) -> None:
    with pytest.raises(ValueError):
        safe_path(bad)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_value_error(noise: bytes) -> None:
    try:
        found = read_manifest(b"---\n" + noise + b"\n---\n", "folder")
    except ValueError:
        return
    assert slug(found.name)


@given(st.text(max_size=60))
def test_any_path_is_plain_or_refused(path: str) -> None:
    try:
        parts = safe_path(path)
    except ValueError:
        return
    assert "/".join(parts) == path
    assert not {"", ".", ".."} & set(parts)
