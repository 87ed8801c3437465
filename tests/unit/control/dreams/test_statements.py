import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.dreams.statements import (
    BadInput,
    Event,
    Version,
    WriteMemory,
    parse,
    render,
)
from tests.fakes.dreams import statement

EVENT = Event("sesn_1", "sevt_1", "2026-11-21")
VERSION = Version("memstore_1", "/old.md", "memver_1")


def wanted(*statements: dict[str, object], **more: object) -> WriteMemory:
    found = parse("write_memory", {"path": "/a.md", "statements": list(statements), **more})
    assert isinstance(found, WriteMemory)
    return found


def test_each_statement_carries_its_footnotes() -> None:
    write = wanted(
        statement("One.", "sevt_1"),
        statement("Two,\nand more.", "/old.md", "sevt_1"),
        title="Things",
    )
    assert render(write, {"sevt_1": EVENT, "/old.md": VERSION}) == (
        "# Things\n\n"
        "- One. [^1]\n"
        "- Two,\n  and more. [^1][^2]\n\n"
        "[^1]: session sesn_1, event sevt_1, 2026-11-21\n"
        "[^2]: memory /old.md of memstore_1, version memver_1\n"
    )


@given(st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=5))
def test_nobody_else_writes_a_footnote(texts: list[str]) -> None:
    try:
        write = wanted(*(statement(text, "sevt_1") for text in texts))
    except BadInput:
        return
    text = render(write, {"sevt_1": EVENT})
    assert len(re.findall(r"\[\^", text)) == len(texts) + 1
    assert text.rstrip("\n").split("\n")[-1].startswith("[^1]: session sesn_1")


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("fetch", {}, "no tool"),
        ("write_memory", None, "dictionary"),
        ("write_memory", {"path": "/a"}, "statements"),
        ("write_memory", {"path": "/a", "statements": []}, "statements"),
        ("write_memory", {"path": "/a", "statements": [{"text": "x"}]}, "sources"),
        ("write_memory", {"path": "/a", "statements": [statement("x")]}, "sources"),
        ("write_memory", {"path": "/a", "statements": [statement("", "s")]}, "text"),
        ("write_memory", {"path": "/a", "statements": [statement("x[^1]: me", "s")]}, "footnotes"),
        ("write_memory", {"path": "a", "statements": [statement("x", "s")]}, "start with"),
        ("write_memory", {"path": "/../a", "statements": [statement("x", "s")]}, "'..'"),
        (
            "write_memory",
            {"path": "/a", "title": "a\nb", "statements": [statement("x", "s")]},
            "one line",
        ),
        (
            "write_memory",
            {"path": "/a", "statements": [statement("x", *map(str, range(n, n + 20)))
                                          for n in range(0, 220, 20)]},
            "at most 200 sources",
        ),
        (
            "write_memory",
            {"path": "/a", "store": "memstore_2", "statements": [statement("x", "s")]},
            "store",
        ),
        ("read_memory", {"path": "/a/"}, "path"),
        ("list_memories", {"prefix": "/a"}, "prefix"),
        ("delete_memory", {"path": "/a"}, "reason"),
    ],
)  # fmt: skip
def test_bad_inputs_are_told_why(name: str, given: object, says: str) -> None:
    with pytest.raises(BadInput, match=re.escape(says)):
        parse(name, given)
