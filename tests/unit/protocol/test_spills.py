from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.sandbox.base import WORKSPACE
from intramuros.protocol import spills


@given(st.text())
def test_a_place_is_one_file_below_the_directory_whatever_the_call_is_called(name: str) -> None:
    found = spills.place(name)
    assert found.startswith(f"{spills.DIRECTORY}/")
    inner = found.removeprefix(f"{spills.DIRECTORY}/")
    assert "/" not in inner
    assert inner not in (".txt", "..")
    assert found.isascii()


def test_the_directory_is_in_the_workspace() -> None:
    assert spills.DIRECTORY.startswith(f"{WORKSPACE}/")
    assert spills.place("../..") == f"{spills.DIRECTORY}/output.txt"


def test_a_preview_has_both_ends_and_says_what_is_missing() -> None:
    shown = spills.preview("a" * 60_000 + "z" * 60_000, "all of it is there")
    assert len(shown) < spills.PREVIEW_HEAD_CHARS + spills.PREVIEW_TAIL_CHARS + 200
    assert shown.startswith("aaa")
    assert shown.endswith("zzz")
    assert "[… 110000 of 120000 characters left out; all of it is there …]" in shown
