import json
import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.store.codec import Part, as_sent, decode, dump, encode

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_what_is_kept_comes_back(value: object) -> None:
    assert decode(encode(value)) == value
    assert json.loads(encode(value)) == value


@given(JSON)
def test_answers_are_json(value: object) -> None:
    assert json.loads(dump(value)) == json.loads(json.dumps(value))


def test_what_only_the_standard_library_takes_is_kept_too() -> None:
    deep: object = "x"
    for _ in range(400):
        deep = [deep]
    for odd in ("\ud800", deep, {"\udfff": 10**40}):
        assert decode(encode(odd)) == odd


def test_text_is_not_taken_for_a_number() -> None:
    assert dump({"NaN": "Infinity"}) == b'{"NaN":"Infinity"}'


@pytest.mark.parametrize("text", ["1e400", "-1e400", "NaN", '"\\ud800"', "[" * 500 + "]" * 500])
def test_whatever_the_standard_library_reads_is_read(text: str) -> None:
    assert repr(decode(text)) == repr(json.loads(text))


def test_what_is_no_json_is_not_sent() -> None:
    assert dump([math.nan, math.inf, -math.inf]) == b"[null,null,null]"
    with pytest.raises(ValueError):
        dump("\ud800")
    with pytest.raises(TypeError):
        dump(object())


@pytest.mark.parametrize("text", ["", "{", "nul", "[1,]", "\x00"])
def test_what_is_no_json_is_not_read(text: str) -> None:
    with pytest.raises(ValueError):
        decode(text)


@given(JSON)
def test_what_is_sent_as_it_is_kept_says_the_same(value: object) -> None:
    assert json.loads(dump({"a": as_sent(encode(value))})) == json.loads(json.dumps({"a": value}))


def test_numbers_that_json_has_not_are_null_in_what_is_sent_as_it_is_kept() -> None:
    assert dump([as_sent(encode({"n": math.inf})), as_sent("NaN")]) == b'[{"n":null},null]'
    assert dump(as_sent(encode("Infinity"))) == b'"Infinity"'


@dataclass(frozen=True)
class Few:
    """Some members."""

    name: str
    count: int | None = None


def test_a_part_is_read_whether_its_object_is_decoded_or_not() -> None:
    for value in ({"name": "é", "count": 3, "more": ["\ud800", {}]}, {"name": "é", "count": 3}):
        assert Part(Few).of(value) == Part(Few).of(as_sent(encode(value))) == Few("é", 3)
    assert Part(Few).of(as_sent('{"name": "a", "big": 1e400}')) == Few("a")


def test_a_part_that_is_not_there_is_refused() -> None:
    for wrong in ({}, {"name": 1}):
        for value in (wrong, as_sent(encode(wrong))):
            with pytest.raises(ValueError):
                Part(Few).of(value)
