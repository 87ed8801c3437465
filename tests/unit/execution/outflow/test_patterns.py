import random
import time

import pytest

from intramuros.execution.outflow import patterns as room
from intramuros.execution.outflow.findings import Finding
from intramuros.execution.outflow.patterns import Pattern, Patterns, TooMany


def test_the_first_group_counts_or_all() -> None:
    made = Patterns([Pattern("a", "k=([0-9]+)"), Pattern("b", "x+"), Pattern("c", "y(z)?")])
    assert sorted(made.find(b"k=12 xxx y")) == [
        Finding(2, 4, "a"),
        Finding(5, 8, "b"),
        Finding(9, 10, "c"),
    ]
    assert made.find(b"nothing") == []
    assert Patterns([]).find(b"k=12") == []


def test_letters_are_those_of_utf8() -> None:
    (one,) = Patterns([Pattern("a", "(?i)müll.r")]).find("aä MÜLLÉR".encode())
    assert one == Finding(4, 12, "a")


def test_a_last_look_may_refuse() -> None:
    made = Patterns([Pattern("a", "[0-9]+", lambda value: value != b"1")])
    assert made.find(b"1 22") == [Finding(2, 4, "a")]


def test_what_is_loose_is_not_looked_for_in_what_is_no_text() -> None:
    made = Patterns([Pattern("a", "a"), Pattern("b", "b", literal=False)])
    assert {one.rule for one in made.find(b"ab", text=False)} == {"a"}
    assert {one.rule for one in made.find(b"ab")} == {"a", "b"}


@pytest.mark.parametrize("regex", ["(", r"(?=a)", r"(a)\1", "a*", "a|", "[", "a{1001}"])
def test_what_re2_has_not_or_matches_nothing_is_refused(regex: str) -> None:
    with pytest.raises(ValueError, match="'mine'"):
        Patterns([Pattern("mine", regex)])


def test_more_than_enough_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_FINDINGS", 10)
    made = Patterns([Pattern("a", "a")])
    assert len(made.find(b"a" * 10)) == 10
    with pytest.raises(TooMany, match="'a'"):
        made.find(b"a" * 11)


@pytest.mark.parametrize(
    "regex", [r"(a+)+$", r"(a|aa)+$", r"(.*a){20}", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(x+x+)+y"]
)
def test_no_expression_hangs(regex: str) -> None:
    """Each takes an engine that backtracks longer than there is time."""
    made = Patterns([Pattern("evil", regex)])
    began = time.monotonic()
    for data in (b"a" * 50_000 + b"!", b"x" * 50_000, b"ab" * 25_000):
        made.find(data)
    assert time.monotonic() - began < 60


def test_many_expressions_find_what_each_finds_alone() -> None:
    dice = random.Random(7)
    ones = [Pattern(f"r{n}", f"[a-c]{{{n + 1}}}[d-f]{n}") for n in range(8)]
    data = "".join(dice.choice("abcdef01234567") for _ in range(20_000)).encode()
    together = sorted(Patterns(ones).find(data))
    alone = sorted(found for one in ones for found in Patterns([one]).find(data))
    assert together == alone == sorted(Patterns([], ones).find(data))
    assert together


@pytest.mark.parametrize("regex", [r"a.{300}b.{300}q", r"[ab][ab]{0,900}c[ab]{0,900}d"])
def test_an_expression_that_needs_a_table_too_large_hides_no_other(regex: str) -> None:
    dice = random.Random(5)
    data = bytes(dice.choice(b"abcxy") for _ in range(60_000)) + b" ghp_123456 "
    own = Pattern("own", "ghp_[0-9]{6}")
    began = time.monotonic()
    found = Patterns([own], [Pattern("mine", regex)]).find(data)
    assert time.monotonic() - began < 60
    assert Finding(60_001, 60_011, "own") in found
