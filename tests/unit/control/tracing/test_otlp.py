from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from intramuros.control.tracing.otlp import Span, cut, encode
from tests.fakes.collector import attributes


def span(**more: Any) -> Span:
    made: dict[str, Any] = {
        "name": "chat m",
        "kind": "client",
        "trace_id": "0a" * 16,
        "span_id": "0b" * 8,
        "parent_id": "0c" * 8,
        "start_us": 1_700_000_000_000_001,
        "end_us": 1_700_000_000_000_009,
        "error": None,
        "attributes": {"a": "x", "n": 5, "l": ["p", "q"]},
        "content": {"gen_ai.output.messages": "words"},
        **more,
    }
    return Span(**made)  # type: ignore[typeddict-item]  # its members one by one


def parsed(spans: list[Span], content_bytes: int | None = None) -> list[Any]:
    request = ExportTraceServiceRequest.FromString(encode(spans, "org", content_bytes))
    (resource,) = request.resource_spans
    told = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
    assert told == {"service.name": "intramuros", "service.instance.id": "org"}
    return [one for scope in resource.scope_spans for one in scope.spans]


def test_a_span_arrives_as_it_was() -> None:
    (one,) = parsed([span()])
    assert (one.trace_id, one.span_id, one.parent_span_id) == (
        b"\x0a" * 16,
        b"\x0b" * 8,
        b"\x0c" * 8,
    )
    assert one.end_time_unix_nano - one.start_time_unix_nano == 8_000
    assert attributes(one) == {"a": "x", "n": 5, "l": ["p", "q"]}
    root, failed = parsed([span(parent_id=""), span(error="it broke")])
    assert root.parent_span_id == b""
    assert (failed.status.code, failed.status.message) == (2, "it broke")


def test_R379_content_is_left_out_unless_it_is_asked_for() -> None:
    assert "gen_ai.output.messages" not in attributes(parsed([span()])[0])
    assert attributes(parsed([span()], 100)[0])["gen_ai.output.messages"] == "words"
    assert attributes(parsed([span()], 4)[0])["gen_ai.output.messages"] == "w…"


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=30), max_size=4), st.integers(1, 60))
def test_cut_content_fits_and_stays_text(content: dict[str, str], most: int) -> None:
    kept = cut(content, most)
    assert sum(len(text.encode()) for text in kept.values()) <= most
    assert set(kept) <= set(content)


@pytest.mark.parametrize("text", ["\ud800", "\x00", "a" * 10**6])
def test_strange_content_breaks_nothing(text: str) -> None:
    parsed([span(content={"c": text})], 65_536)
    (one,) = parsed([span(name=text, attributes={"a": text, "l": [text], "n": 10**30})])
    assert attributes(one)["n"] == 2**63 - 1
