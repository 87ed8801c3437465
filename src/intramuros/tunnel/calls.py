"""What an MCP request body asks for, in words for the audit record.

Pure and bounded. A body that two parsers could read differently is refused, because the record
must say what the upstream will do.
"""

import json
from dataclasses import dataclass, field
from typing import Final

from intramuros.tunnel.http_rules import BadRequest

MAX_BATCH: Final = 64
_MAX_NAME_CHARS: Final = 256


@dataclass(frozen=True, slots=True)
class Call:
    """One JSON-RPC message: its method, and the tool, prompt or resource it names."""

    method: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a request body holds; no calls when it is no JSON-RPC."""

    calls: tuple[Call, ...] = field(default=())

    def fields(self) -> dict[str, object]:
        """Return members for an audit record."""
        if len(self.calls) == 1:
            call = self.calls[0]
            named: dict[str, object] = {"name": call.name} if call.name else {}
            return {"method": call.method} | named
        if self.calls:
            return {"batch": [[call.method, call.name] for call in self.calls]}
        return {}


def summarise(body: bytes, content_type: bytes) -> Summary:
    """Read the methods and names out of a JSON-RPC body.

    Args:
        body: the whole request body.
        content_type: the request's header, or empty.

    Raises:
        BadRequest: JSON that is malformed, nested too deeply, or has a member twice.
    """
    says_json = b"json" in content_type.lower()
    # A server may parse JSON whatever the header says, so the first character counts too.
    if not body or not (says_json or body.lstrip()[:1] in (b"{", b"[")):
        return Summary()
    try:
        data = json.loads(body, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadRequest("malformed_body", f"the body is no plain JSON ({error})") from error
    messages = data if isinstance(data, list) else [data]
    if len(messages) > MAX_BATCH:
        raise BadRequest("batch_too_long", f"at most {MAX_BATCH} messages in a batch")
    return Summary(tuple(_call(message) for message in messages))


def _call(message: object) -> Call:
    if not isinstance(message, dict):
        raise BadRequest("malformed_body", "a JSON-RPC message must be an object")
    method = message.get("method")
    if method is None:
        return Call("response")
    if not isinstance(method, str):
        raise BadRequest("malformed_body", "the JSON-RPC method must be text")
    params = message.get("params")
    name = None
    if isinstance(params, dict):
        name = params.get("name", params.get("uri"))
    return Call(_plain(method), _plain(name) if isinstance(name, str) else None)


def _plain(text: str) -> str:
    """Return a bounded text that UTF-8 can carry; JSON may hold lone surrogates."""
    return text[:_MAX_NAME_CHARS].encode("utf-8", "backslashreplace").decode()


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice")
    return members
