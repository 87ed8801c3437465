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


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf], "\ud800"])
def test_what_is_no_json_is_not_sent(value: object) -> None:
    with pytest.raises(ValueError):
        dump(value)
