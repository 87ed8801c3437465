import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from intramuros.protocol.resources.base import (
    JsonObject,
    Metadata,
    Request,
    Response,
    check_json,
    merge_metadata,
)

METADATA = TypeAdapter(Metadata)


class Sample(Request):
    name: str
    size: int | None = None


class Answer(Response):
    name: str
    note: str | None


def test_requests_refuse_unknown_members_and_wrong_types() -> None:
    for text in ('{"name":"a","x":1}', '{"name":1}', '{"name":"a","size":"1"}', '{"size":true}'):
        with pytest.raises(ValidationError):
            Sample.model_validate_json(text)


def test_requests_know_what_was_sent() -> None:
    sample = Sample.model_validate_json('{"name":"a","size":null}')
    assert (sample.sent("size"), sample.size) == (True, None)
    assert not Sample.model_validate_json('{"name":"a"}').sent("size")


def test_answers_must_say_their_nullable_members() -> None:
    Answer(name="a", note=None)
    with pytest.raises(ValidationError):
        Answer.model_validate({"name": "a"})


@pytest.mark.rule("c4_5", "R029")
def test_metadata_limits_are_inclusive() -> None:
    METADATA.validate_python({f"k{i}": "v" for i in range(16)})
    METADATA.validate_python({"k" * 64: "v" * 512})
    for bad in (
        {f"k{i}": "v" for i in range(17)},
        {"k" * 65: "v"},
        {"": "v"},
        {"k": "v" * 513},
    ):
        with pytest.raises(ValidationError):
            METADATA.validate_python(bad)


@pytest.mark.rule("c4_7", "c4_9", "R030")
def test_metadata_patches_upsert_delete_and_keep() -> None:
    stored = {"a": "1", "b": "2"}
    assert merge_metadata(stored, {"a": None, "c": "3", "gone": None}) == {"b": "2", "c": "3"}
    assert merge_metadata(stored, None) == stored
    full = {f"k{i}": "v" for i in range(16)}
    with pytest.raises(ValueError, match="at most 16"):
        merge_metadata(full, {"one more": "v"})
    assert len(merge_metadata(full, {"one more": "v", "k0": None})) == 16


def test_free_form_json_must_read_alike_everywhere() -> None:
    nested: object = 1
    for _ in range(65):
        nested = [nested]
    for bad in (float("inf"), float("nan"), 2**63, {"a": [nested]}):
        with pytest.raises(ValueError, match=r"finite|64 bits|deep"):
            check_json(bad)
    assert check_json({"a": [1, 2.5, None, True, "x", 2**63 - 1]})


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda children: st.lists(children) | st.dictionaries(st.text(), children),
        max_leaves=20,
    )
)
def test_checked_json_survives_a_round_trip(value: object) -> None:
    try:
        checked = TypeAdapter(JsonObject).validate_python({"value": value})
    except ValidationError:
        return
    assert json.loads(json.dumps(checked, allow_nan=False)) == checked
