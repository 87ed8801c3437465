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
        ({"method": "resources/subscribe", "params": {"name": "n", "uri": "a:b"}}, {"name": "a:b"}),
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
        b'{"method":"tools/call","params":{"name":"a","arguments":["b"]}}',
        b'{"method":"tools/call","params":{"name":"a","arguments":"{}"}}',
        b'{"id":1,"method":"ping","result":{}}',
        b'\xef\xbb\xbf{"method":"ping"}',
        '{"method":"ping"}'.encode("utf-16"),
        '{"method":"ping"}'.encode("utf-16-be"),
        '{"method":"ping"}'.encode("utf-32-le"),
        b'{"method":"ping","x":"\xed\xa0\x80"}',
    ],
)
def test_t32_what_two_parsers_might_read_differently_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        summarise(body, JSON)


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\0", b"\xff\xfe", b"\xc2\xa0", b" \x0b"])
def test_t32_what_stands_before_json_hides_it_under_no_other_name(start: bytes) -> None:
    body = start + call(name="drop")
    with pytest.raises(BadRequest):
        summarise(body, b"text/plain")


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json; charset=utf-7",
        b'application/json;CHARSET = "UTF-16"',
        b"application/json; charset=utf-8; charset=utf-7",
        b"application/json; charset*=utf-8''utf-7",
        b"application/json; charset=iso-8859-1",
        b"application/json; charset=",
    ],
)
def test_t32_json_in_another_charset_is_refused(content_type: bytes) -> None:
    # In UTF-7, which many servers take, "+AG0-" is the letter m.
    body = b'{"method":"ping","+AG0-ethod":"tools/call","params":{"name":"drop"}}'
    with pytest.raises(BadRequest) as caught:
        summarise(body, content_type)
    assert (caught.value.code, caught.value.status) == ("encoding_refused", 415)


def test_t32_other_text_may_be_in_any_charset_that_keeps_ascii() -> None:
    form = b"grant_type=client_credentials"
    for charset in (b"utf-8", b"ISO-8859-15", b'"us-ascii"', b"windows-1252"):
        assert (
            summarise(form, b"application/x-www-form-urlencoded; charset=" + charset) == Summary()
        )
    with pytest.raises(BadRequest):
        summarise(b"+AHs-", b"text/plain; charset=utf-7")
    for content_type in (
        b"application/json;charset=utf-8",
        b'application/json; charset="UTF8" ; q=1',
    ):
        assert summarise(b'{"method":"ping"}', content_type).method == "ping"


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
        (
            b'{"method":"resources/subscribe","params":{"name":"n","uri":"a:b"}}',
            {"mcp-name": "n"},
        ),
        (call(name="find", arguments={"path": "/ok"}), {"mcp-param-path": "/etc"}),
        (call(name="find", arguments={"path": "/ok", "note": "/etc"}), {"mcp-param-path": "/etc"}),
        (call(name="find", arguments={"path": "/ok"}), {"mcp-param-other": "/etc"}),
        (call(name="find"), {"mcp-param-path": ""}),
        (b"", {"mcp-param-path": "/etc"}),
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


def test_t32_headers_that_repeat_arguments_pass_once() -> None:
    arguments = {"Region": "eu", "deep": [{"count": 5, "on": True}], "half": 0.5, "none": None}
    found = summarise(call(name="find", arguments=arguments), JSON)
    wrapped = b"=?base64?" + base64.b64encode(b"eu") + b"?="
    for name, value in (
        (b"mcp-param-region", b"eu"),
        (b"mcp-param-region", wrapped),
        (b"mcp-param-count", b"5"),
        (b"mcp-param-elsewhere", b"true"),
        (b"mcp-param-half", b"0.5"),
    ):
        check_mirrored(found, [(name, value)])
        with pytest.raises(BadRequest):
            check_mirrored(found, [(name, value)] * 2)
        with pytest.raises(BadRequest):
            check_mirrored(found, [(name, value + b"x")])


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
