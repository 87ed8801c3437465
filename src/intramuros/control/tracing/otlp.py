"""Spans as OTLP: what is kept of a span, and its protobuf form by OpenTelemetry's own library."""

from collections.abc import Mapping, Sequence
from typing import Final, TypedDict

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

CONTENT_TYPE: Final = "application/x-protobuf"
TEST_SPAN: Final = "anthropic.test"
_SCOPE: Final = InstrumentationScope("intramuros")
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_KINDS: Final = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}
_CUT: Final = "…"
_MAX_INT: Final = 2**63 - 1


class Span(TypedDict):
    """A finished span, as JSON.

    ``trace_id``, ``span_id`` and ``parent_id`` are hexadecimal, the last empty for a root; times
    are microseconds since the epoch; ``content`` is left out for those who want metadata only.
    """

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start_us: int
    end_us: int
    error: str | None
    attributes: Mapping[str, str | int | bool | list[str]]
    content: Mapping[str, str]


def encode(spans: Sequence[Span], organization_id: str, content_bytes: int | None) -> bytes:
    """Return the body of an export request.

    Args:
        content_bytes: how much content each span may have, in bytes; None leaves all of it out.
    """
    # Made here and not by the library's detectors, which would read the environment.
    resource = Resource({"service.name": "intramuros", "service.instance.id": organization_id})
    made = [_readable(span, resource, content_bytes) for span in spans]
    data: bytes = encode_spans(made).SerializeToString()
    return data


def cut(content: Mapping[str, str], most_bytes: int) -> dict[str, str]:
    """Return content within a number of bytes altogether; what comes last is cut first."""
    kept, room = {}, most_bytes
    for name, text in content.items():
        data = text.encode("utf-8", "replace")
        if len(data) > room:
            mark = _CUT if room > len(_CUT.encode()) else ""
            short = data[: room - len(mark.encode())].decode("utf-8", "ignore")
            data = (short + mark).encode()
        if data:
            kept[name] = data.decode()
            room -= len(data)
    return kept


def _readable(span: Span, resource: Resource, content_bytes: int | None) -> ReadableSpan:
    attributes = {name: _plain(value) for name, value in span["attributes"].items()}
    if content_bytes is not None:
        attributes |= cut(span["content"], content_bytes)
    trace_id = int(span["trace_id"], 16)
    parent = span["parent_id"]
    failed = span["error"]
    return ReadableSpan(
        name=_text(span["name"]),
        context=_context(trace_id, span["span_id"]),
        parent=_context(trace_id, parent) if parent else None,
        resource=resource,
        attributes=attributes,
        kind=_KINDS[span["kind"]],
        status=Status(StatusCode.UNSET) if failed is None else Status(StatusCode.ERROR, failed),
        start_time=span["start_us"] * 1000,
        end_time=span["end_us"] * 1000,
        instrumentation_scope=_SCOPE,
    )


def _plain(value: str | int | bool | list[str]) -> str | int | bool | list[str]:
    """Return a value that OTLP can carry."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return [_text(item) for item in value]
    return max(-_MAX_INT, min(value, _MAX_INT))


def _text(text: str) -> str:
    """Return text without halves of surrogate pairs, which JSON may hold and UTF-8 may not."""
    return text.encode("utf-8", "replace").decode()


def _context(trace_id: int, span_id: str) -> SpanContext:
    return SpanContext(trace_id, int(span_id, 16), is_remote=False, trace_flags=_SAMPLED)
