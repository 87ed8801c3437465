import os
from pathlib import Path

import pytest

from intramuros.execution.sandbox.inside import files
from intramuros.execution.sandbox.inside.files import edit, read, write
from intramuros.execution.sandbox.inside.paths import Policy, ToolError


def call(**fields: str | bytes) -> dict[str, bytes]:
    return {k: v.encode() if isinstance(v, str) else v for k, v in fields.items()}


def test_text_comes_back_byte_for_byte(policy: Policy, workdir: Path) -> None:
    (workdir / "f").write_bytes(b"a\r\n\xc3\xa9\n")
    assert read(policy, call(file_path="f")) == {"text": b"a\r\n\xc3\xa9\n"}


@pytest.mark.parametrize(
    ("view", "text"),
    [
        ("1 1", b"1"),
        ("2 3", b"2\n3"),
        ("2 0", b"2\n3\n"),
        ("0 1", b"1"),
        ("3 2", b""),
        ("9 9", b""),
    ],
)
def test_ranges_are_inclusive_and_from_one(
    policy: Policy, workdir: Path, view: str, text: bytes
) -> None:
    (workdir / "f").write_bytes(b"1\n2\n3\n")
    assert read(policy, call(file_path="f", view_range=view)) == {"text": text}


def test_large_files_are_read_by_range_only(policy: Policy, workdir: Path) -> None:
    lines = [f"line {n}" for n in range(40_000)]
    (workdir / "f").write_text("\n".join(lines))
    with pytest.raises(ToolError, match="Use the view_range parameter"):
        read(policy, call(file_path="f"))
    part = read(policy, call(file_path="f", view_range="39999 40000"))
    assert part == {"text": b"line 39998\nline 39999"}
    assert read(policy, call(file_path="f", view_range="5 4")) == {"text": b""}
    with pytest.raises(ToolError, match="Narrow the view_range"):
        read(policy, call(file_path="f", view_range="1 -1"))


def test_a_line_too_long_for_any_range_says_so(policy: Policy, workdir: Path) -> None:
    (workdir / "f").write_bytes(b"x" * (files.MAX_TEXT + 1))
    with pytest.raises(ToolError, match="line 1 of f alone exceeds"):
        read(policy, call(file_path="f", view_range="1 1"))


@pytest.mark.parametrize(
    ("name", "media"), [("p.PNG", b"image/png"), ("d.pdf", b"application/pdf")]
)
def test_media_come_with_their_type(policy: Policy, workdir: Path, name: str, media: bytes) -> None:
    (workdir / name).write_bytes(b"\x00\x01")
    assert read(policy, call(file_path=name)) == {"media": media, "data": b"\x00\x01"}
    with pytest.raises(ToolError, match="not supported for image/PDF"):
        read(policy, call(file_path=name, view_range="1 2"))


@pytest.mark.parametrize(("name", "limit"), [("p.jpg", files.MAX_IMAGE), ("d.pdf", files.MAX_PDF)])
def test_media_over_their_cap_are_refused(
    policy: Policy, workdir: Path, name: str, limit: int
) -> None:
    with (workdir / name).open("wb") as file:
        file.truncate(limit + 1)
    with pytest.raises(ToolError, match=f"exceeds {limit}-byte limit for image/PDF files"):
        read(policy, call(file_path=name))


def test_what_is_not_a_text_file_is_refused(policy: Policy, workdir: Path) -> None:
    (workdir / "b").write_bytes(b"\xff")
    os.mkfifo(workdir / "p")
    for tool in (read, edit):
        more = {} if tool is read else {"old_string": "a", "new_string": "b"}
        with pytest.raises(ToolError, match="not valid UTF-8 text"):
            tool(policy, call(file_path="b", **more))
        for path in ("p", "."):
            with pytest.raises(ToolError, match="not a regular file"):
                tool(policy, call(file_path=path, **more))
        with pytest.raises(ToolError, match="no such file or directory"):
            tool(policy, call(file_path="nope", **more))
    with pytest.raises(ToolError, match="view_range must be"):
        read(policy, call(file_path="b", view_range="1"))


def test_write_makes_parents_and_counts_characters(policy: Policy, workdir: Path) -> None:
    answer = write(policy, call(file_path="a/b/c", content="é\n"))
    assert answer == {"text": b"wrote 2 bytes to a/b/c"}
    assert (workdir / "a/b/c").read_bytes() == b"\xc3\xa9\n"
    write(policy, call(file_path="a/b/c", content=""))
    assert (workdir / "a/b/c").read_bytes() == b""


def test_write_refuses_what_it_cannot_replace(policy: Policy, workdir: Path) -> None:
    (workdir / "f").touch()
    os.mkfifo(workdir / "p")
    for path, words in [
        (".", "is a directory"),
        ("f/x", "file already exists"),
        ("/etc/x", "outside"),
        (f"{workdir.parent}/store/x", "inside read-only directory"),
    ]:
        with pytest.raises(ToolError, match=words):
            write(policy, call(file_path=path, content="x"))
    with pytest.raises(ToolError):
        write(policy, call(file_path="p", content="x"))


@pytest.mark.parametrize(
    ("old", "every", "result"),
    [("one", "", "edited f (1 replacement(s))"), ("o", "1", "edited f (2 replacement(s))")],
)
def test_edits_count_what_they_replaced(
    policy: Policy, workdir: Path, old: str, every: str, result: str
) -> None:
    (workdir / "f").write_text("one two")
    fields = call(file_path="f", old_string=old, new_string="0", replace_all=every)
    assert edit(policy, fields) == {"text": result.encode()}
    assert (workdir / "f").read_text() == "one two".replace(old, "0")


def test_edits_that_are_not_unique_change_nothing(policy: Policy, workdir: Path) -> None:
    (workdir / "f").write_text("aa")
    with pytest.raises(ToolError, match=r"appears 2 times in f \(must be unique\)"):
        edit(policy, call(file_path="f", old_string="a", new_string="b"))
    with pytest.raises(ToolError, match="old_string not found in f"):
        edit(policy, call(file_path="f", old_string="z", new_string="b"))
    (workdir / "big").write_bytes(b"x" * (files.MAX_TEXT + 1))
    with pytest.raises(ToolError, match="cannot modify a file this large"):
        edit(policy, call(file_path="big", old_string="z", new_string="b"))
    assert (workdir / "f").read_text() == "aa"
