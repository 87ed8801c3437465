import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.tunnel.calls import Summary, check_mirrored, summarise
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
        # What a server looks at is on record, not what stands beside it.
        ({"method": "resources/read", "params": {"name": "n", "uri": "a:b"}}, {"name": "a:b"}),
        ({"method": "tools/call", "params": {"name": "n", "uri": "a:b"}}, {"name": "n"}),
        (
            {"method": "tools/call", "params": {"_meta": {"name": "other"}, "name": "n"}},
            {"name": "n"},
        ),
        ({"method": "TOOLS/CALL", "params": {"name": "n"}}, {"method": "TOOLS/CALL"}),
        ({"method": "tools/call", "params": {"name": "f\u0456nd"}}, {"name": "f\u0456nd"}),
    ],
)
def test_t32_the_record_names_what_the_server_will_do(
    message: object, expected: dict[str, object]
) -> None:
    fields = summarise(json.dumps(message).encode(), JSON).fields()
    assert expected.items() <= fields.items()


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
        b'[{"method":"tools/list"},{"method":"tools/call","params":{"name":"a"}}]',
        b"[]",
        b"\xff\xfe",
        b'{"method":"tools/list","Method":"tools/call"}',
        b'{"METHOD":"tools/call"}',
        b'{"method":"tools/call","param\xc5\xbf":{"name":"b"}}',
        b'{"method":"tools/call","params":{"name":"a","Name":"b"}}',
        b'{"method":"resources/read","params":{"uri":"a:b","URI":"a:c"}}',
    ],
)
def test_t32_what_two_parsers_might_read_differently_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        summarise(body, JSON)


def call(**params: object) -> bytes:
    return json.dumps({"method": "tools/call", "params": params}).encode()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (call(name="find"), {"mcp-method": "tools/list"}),
        (call(name="find"), {"mcp-method": "tools/call", "mcp-name": "drop"}),
        (call(name="find"), {"mcp-name": "FIND"}),
        (call(name="find", other="drop"), {"mcp-name": "drop"}),
        (call(name="f\u0456nd"), {"mcp-name": "find"}),
        (call(), {"mcp-name": "find"}),
        (call(name="find"), {"mcp-name": "=?base64?Zml?="}),
        (call(name="find"), {"mcp-name": "=?base64?ZHJvcA==?="}),
        (b"", {"mcp-method": "tools/call"}),
        (b"", {"mcp-name": "find"}),
        (b'{"method":"x","params":{"a":"b"}}', {"mcp-name": "c"}),
    ],
)
def test_t32_headers_that_say_another_thing_than_the_body_are_refused(
    body: bytes, headers: dict[str, str]
) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    with pytest.raises(BadRequest) as caught:
        check_mirrored(summarise(body, JSON), pairs)
    assert caught.value.code == "header_mismatch"
    assert caught.value.status == 400


def test_t32_headers_that_repeat_the_body_pass_once() -> None:
    wrapped = b"=?base64?" + base64.b64encode("f\u0456nd".encode()) + b"?="
    for body, name in (
        (call(name="find"), b"find"),
        (call(name="f\u0456nd"), wrapped),
        (b'{"method":"resources/read","params":{"uri":"a:b"}}', b"a:b"),
        (b'{"method":"tasks/get","params":{"taskId":"t1"}}', b"t1"),
    ):
        found = summarise(body, JSON)
        headers = [(b"mcp-method", str(found.method).encode()), (b"mcp-name", name)]
        check_mirrored(found, headers)
        with pytest.raises(BadRequest):
            check_mirrored(found, headers * 2)
    check_mirrored(summarise(b'{"id":1,"result":{}}', JSON), [])
    check_mirrored(Summary(), [])


@given(st.binary(max_size=300), st.sampled_from([JSON, b"", b"text/plain"]))
def test_arbitrary_bodies(body: bytes, content_type: bytes) -> None:
    with contextlib.suppress(BadRequest):
        json.dumps(summarise(body, content_type).fields())
