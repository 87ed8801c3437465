import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.tunnel.calls import MAX_BATCH, Summary, summarise
from intramuros.tunnel.http_rules import BadRequest

JSON = b"application/json"


def test_a_tool_call_names_its_tool() -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"find"}}'
    assert summarise(body, JSON).fields() == {"method": "tools/call", "name": "find"}
    # The header may lie; the upstream may parse all the same.
    assert summarise(body, b"text/plain").fields() == {"method": "tools/call", "name": "find"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"method": "tools/list"}, {"method": "tools/list"}),
        ({"method": "resources/read", "params": {"uri": "a:b"}}, {"name": "a:b"}),
        ({"id": 1, "result": {}}, {"method": "response"}),
        ({"method": "x", "params": [1]}, {"method": "x"}),
        ([{"method": "a"}, {"method": "b", "params": {"name": "t"}}], {}),
    ],
)
def test_other_messages(message: object, expected: dict[str, object]) -> None:
    fields = summarise(json.dumps(message).encode(), JSON).fields()
    assert expected.items() <= fields.items()
    if isinstance(message, list):
        assert fields == {"batch": [["a", None], ["b", "t"]]}


def test_names_can_always_be_written_down() -> None:
    body = b'{"method":"tools/call","params":{"name":"\\ud800"}}'
    assert summarise(body, JSON).fields()["name"] == "\\ud800"


def test_what_is_no_json_has_no_calls() -> None:
    assert summarise(b"", JSON) == Summary()
    assert summarise(b"a=1", b"application/x-www-form-urlencoded").fields() == {}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"not json",
        b'{"method":"a","method":"b"}',
        b'{"method":"tools/call","params":{"name":"a","name":"b"}}',
        b'{"method":1}',
        b"[1]",
        b'"text"',
        b"[" * 100_000,
        json.dumps([{"method": "a"}] * (MAX_BATCH + 1)).encode(),
        b"\xff\xfe",
    ],
)
def test_what_two_parsers_might_read_differently_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        summarise(body, JSON)


@given(st.binary(max_size=300), st.sampled_from([JSON, b"", b"text/plain"]))
def test_arbitrary_bodies(body: bytes, content_type: bytes) -> None:
    with contextlib.suppress(BadRequest):
        json.dumps(summarise(body, content_type).fields())
