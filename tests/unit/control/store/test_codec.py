import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.store.codec import decode, dump, encode

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
