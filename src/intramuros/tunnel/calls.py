"""What an MCP request body asks for, in words for the audit record.

Pure and bounded. A body that two parsers could read differently is refused, because the record
must say what the upstream will do: members given twice, or in another spelling that some parsers
take for the same, several messages in one, headers that say another thing than the body, and every
encoding but plain UTF-8, because servers decode by the header, by the body's first bytes, or by
neither.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from intramuros.tunnel.http_rules import BadRequest, Headers

_MAX_NAME_CHARS: Final = 256
# Which parameter says what a method is about; protocol 2026-07-28 mirrors it in Mcp-Name.
_NAMED_BY: Final = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
}
# Protocol 2026-07-28 lets a tool have arguments repeated in headers of this kind.
_PARAMETER_HEADER: Final = b"mcp-param-"
_CHARSET: Final = re.compile(rb"charset\s*=\s*\"?([^\s\";,]*)\"?\s*(?=[;,]|\Z)")
_UTF8: Final = re.compile(rb"utf-?8\Z")
# In these, an ASCII character is always its own byte.
_ASCII_KEPT: Final = re.compile(rb"(utf-?8|us-ascii|iso-8859-[0-9]{1,2}|windows-125[0-9])\Z")
# What is no printable ASCII; parsers skip some of it before JSON begins, such as byte order marks.
_SKIPPED: Final = bytes({*range(0x21), *range(0x7F, 0x100)})
_MEMBERS: Final = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
_PARAMETERS: Final = frozenset({"name", "uri", "arguments", "_meta"})
_WRAPPED: Final = re.compile(r"=\?base64\?(.*)\?=\Z")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a request body holds: a JSON-RPC method, and the tool, prompt or resource it names."""

    method: str | None = None
    """None when the body is no JSON-RPC."""
    name: str | None = None
    texts: frozenset[str] = frozenset()
    """Every parameter that is text; a header may mirror one that we do not know."""
    arguments: Mapping[str, object] = field(default_factory=dict, repr=False)
    id: str | int | None = None
    """What an answer must name; None when none is wanted."""

    def fields(self) -> dict[str, object]:
        """Return members for an audit record."""
        found = {"method": self.method, "name": self.name}
        return {key: _plain(text) for key, text in found.items() if text}


def summarise(body: bytes, content_type: bytes) -> Summary:
    """Read the method and what it names out of a JSON-RPC body.

    Args:
        body: the whole request body.
        content_type: the request's header, or empty.

    Raises:
        BadRequest: JSON that is malformed, nested too deeply, or can be read in two ways.
    """
    if not body:
        return Summary()
    # A server may parse JSON whatever the header says, so the first character counts too.
    is_json = b"json" in content_type.lower() or body.lstrip(_SKIPPED)[:1] in (b"{", b"[")
    _check_charset(content_type.lower(), is_json=is_json)
    if not is_json:
        return Summary()
    try:
        message = json.loads(body.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadRequest("malformed_body", f"the body is no plain JSON ({error})") from error
    if isinstance(message, list):
        raise BadRequest("batch_refused", "one JSON-RPC message in a request, no array of them")
    return _read(message)


def check_mirrored(found: Summary, headers: Headers) -> None:
    """Check that the headers which repeat parts of the body say the same.

    A server that looks at ``Mcp-Method``, ``Mcp-Name`` and ``Mcp-Param-*`` would otherwise do what
    the record does not say.

    Raises:
        BadRequest: one differs, or is given twice.
    """
    for header, allowed in (
        (b"mcp-method", {found.method}),
        (b"mcp-name", {found.name} if found.method in _NAMED_BY else found.texts),
    ):
        values = [value for name, value in headers if name == header]
        if values and (len(values) > 1 or _unwrapped(values[0]) not in allowed):
            raise BadRequest("header_mismatch", f"{header.decode()} differs from the body")
    _check_parameters(found.arguments, headers)


def _check_parameters(arguments: Mapping[str, object], headers: Headers) -> None:
    """Check headers that repeat an argument: one of that name has the value, or else any.

    Which argument a header repeats is in the tool's schema, often by its name.
    """
    mirrored = [pair for pair in headers if pair[0].startswith(_PARAMETER_HEADER)]
    if len({name for name, _ in mirrored}) < len(mirrored):
        raise BadRequest("header_mismatch", "an mcp-param header is given twice")
    told = _texts_by_name(arguments) if mirrored else {}
    for header, value in mirrored:
        name = header.removeprefix(_PARAMETER_HEADER).decode("latin-1")
        if _unwrapped(value) not in told.get(name, told[""]):
            raise BadRequest("header_mismatch", f"mcp-param-{_plain(name)} differs from the body")


def _texts_by_name(arguments: Mapping[str, object]) -> dict[str, set[str]]:
    """Return the texts of all plain values by their member's name, and all of them under ""."""
    found: dict[str, set[str]] = {"": set()}
    waiting: list[tuple[str, object]] = [("", arguments)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(key.casefold(), item) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [(name, item) for item in value]
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value).removesuffix(".0")
            found.setdefault(name, set()).add(text)
            found[""].add(text)
    return found


def _check_charset(content_type: bytes, *, is_json: bool) -> None:
    """Refuse charsets in which the bytes could say something else than they say in UTF-8."""
    named = _CHARSET.findall(content_type)
    kept = _UTF8 if is_json else _ASCII_KEPT
    if content_type.count(b"charset") != len(named) or not all(map(kept.match, named)):
        raise BadRequest("encoding_refused", "JSON comes in UTF-8, and other text as ASCII", 415)


def _read(message: object) -> Summary:
    if not isinstance(message, dict):
        raise BadRequest("malformed_body", "a JSON-RPC message must be an object")
    _check_spelling(message, _MEMBERS)
    method, id = message.get("method"), message.get("id")
    if not isinstance(id, (str, int)) or isinstance(id, bool):
        id = None
    answers = "result" in message or "error" in message
    if method is None:
        # Other JSON is no message at all, such as what a client tells an authorization server.
        return Summary("response" if answers else None)
    if answers or not isinstance(method, str):
        raise BadRequest("malformed_body", "a JSON-RPC method must be text, and in no answer")
    params = message.get("params")
    if not isinstance(params, dict):
        return Summary(method, id=id)
    _check_spelling(params, _PARAMETERS)
    key = _NAMED_BY.get(method, "name" if "name" in params else "uri")
    name = params.get(key)
    texts = frozenset(value for value in params.values() if isinstance(value, str))
    given = params.get("arguments")
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise BadRequest("malformed_body", "arguments must be an object")
    return Summary(method, name if isinstance(name, str) else None, texts, given, id)


def _check_spelling(members: Mapping[str, object], known: Iterable[str]) -> None:
    """Refuse ``Method`` beside or instead of ``method``: some parsers take it for the same."""
    odd = [key for key in members if key not in known and key.casefold() in known]
    if odd:
        raise BadRequest("malformed_body", f"the member {_plain(odd[0])!r} is spelled otherwise")


def _unwrapped(value: bytes) -> str | None:
    """Return a header's text; what a header cannot carry comes in Base64 (protocol 2026-07-28)."""
    text = value.decode("latin-1")
    wrapped = _WRAPPED.match(text)
    if wrapped is None:
        return text
    try:
        return base64.b64decode(wrapped[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None


def _plain(text: str) -> str:
    """Return a bounded text that UTF-8 can carry; JSON may hold lone surrogates."""
    return text[:_MAX_NAME_CHARS].encode("utf-8", "backslashreplace").decode()


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice")
    return members
