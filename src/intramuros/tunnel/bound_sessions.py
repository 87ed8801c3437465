"""MCP session ids of private servers, each good for the caller alone that it was given to.

A server's id goes to the caller with a tag: a MAC over route, caller and id, under a key that
follows from the gateway's own private key. What comes back is looked at and taken apart again: the
server sees its own ids, a gateway remembers none, and any gateway with the same key can tell, also
after a restart. Callers see ``<id>.<tag>``, which is visible ASCII as the id itself.

On the transport before streamable HTTP the id is in the address that the first event names, as
``session_id`` or ``sessionId``; there it is tagged alike. Sources: MCP 2025-11-25 and 2024-11-05,
transports. Protocol 2026-07-28 has no sessions, so its requests pass as they are.
"""

import hmac
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Final
from urllib.parse import unquote_plus

import httpcore2

from intramuros.tunnel.callers import Caller
from intramuros.tunnel.http_rules import Headers

HEADER: Final = b"mcp-session-id"
# 128 bits of a MAC, in base64 without padding.
TAG_CHARS: Final = 22
# The first event of a stream is short; what is longer names no address.
MAX_EVENT_BYTES: Final = 16 * 1024
_PARAMETER: Final = re.compile(rb"(?i)(?<=[?&])(session_?id=)([^&#\s]*)")
_NAME: Final = re.compile(r"(?i)session_?id\Z")
_EVENT_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_ENDPOINT: Final = re.compile(rb"(?m)^event: ?endpoint\r?$")
_KEY_SALT: Final = b"intramuros mcp session ids v1"


def session_key(private_key: bytes) -> bytes:
    """Return the key of tags that follows from a private key (HKDF-Extract, RFC 5869)."""
    return hmac.digest(_KEY_SALT, private_key, "sha256")


class Binder:
    """Tags ids for whom they are given to, and knows them again.

    Args:
        keys: the newest first, which makes tags; the others are only known again.
    """

    def __init__(self, keys: Callable[[], Sequence[bytes]]) -> None:
        self._keys = keys

    def of(self, route: str, caller: Caller) -> "Bound":
        """Return what tags the ids of one caller at one route."""
        owner = json.dumps([route, *caller.owner], separators=(",", ":")).encode()
        return Bound(owner, self._keys())


class Bound:
    """Ids of one caller at one route."""

    def __init__(self, owner: bytes, keys: Sequence[bytes]) -> None:
        self._owner = owner
        self._keys = keys

    def tag(self, id: bytes) -> bytes:
        """Return an id as the caller gets it."""
        return id + b"." + _tag(self._keys[0], self._owner, id)

    def known(self, shown: bytes) -> bytes | None:
        """Return the server's id in what a caller shows, or None if it is not the caller's."""
        id, _, tag = shown.rpartition(b".")
        fits = [hmac.compare_digest(_tag(key, self._owner, id), tag) for key in self._keys]
        return id if any(fits) else None

    def request(self, headers: Headers, target: bytes, *, rpc: bool) -> "Request | None":
        """Return what a server shall get, or None if an id in it is not the caller's.

        Args:
            headers: as received, names in lower case.
            target: the request's.
            rpc: whether its body is JSON-RPC; of other requests the address is their own affair.
        """
        kept: list[tuple[bytes, bytes]] = []
        for name, value in headers:
            id = self.known(value) if name == HEADER else value
            if id is None:
                return None
            kept.append((name, id))
        if not rpc:
            return Request(kept, target)
        path, mark, query = target.partition(b"?")
        parts = []
        for part in query.split(b"&"):
            name, equals, value = part.partition(b"=")
            id = self.known(value) if _NAME.match(unquote_plus(name.decode("latin-1"))) else value
            if id is None:
                return None
            parts.append(name + equals + id)
        return Request(kept, path + mark + b"&".join(parts))

    def response(self, response: httpcore2.Response, *, stream: bool) -> httpcore2.Response:
        """Return an answer whose ids are tagged.

        Args:
            response: the server's.
            stream: whether it answers a GET, so that its first event may name an address.
        """
        headers = [
            (name, self.tag(value) if name.lower() == HEADER else value)
            for name, value in response.headers
        ]
        response.headers = headers
        named = {name.lower(): value for name, value in headers}
        kind = named.get(b"content-type", b"").strip().lower()
        packed = named.get(b"content-encoding", b"identity") != b"identity"
        if not stream or packed or not kind.startswith(b"text/event-stream"):
            return response
        kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
        return httpcore2.Response(response.status, headers=kept, content=self._events(response))

    async def _events(self, response: httpcore2.Response) -> AsyncIterator[bytes]:
        held: bytes | None = b""
        async with aclosing(response.aiter_stream()) as chunks:
            async for chunk in chunks:
                if held is None:
                    yield chunk
                    continue
                held += chunk
                whole, held = self._first(held)
                if whole:
                    yield whole
        if held:
            yield held

    def _first(self, held: bytes) -> tuple[bytes, bytes | None]:
        """Return what may go on, and what is held until the first event is whole; None if it is."""
        done = b""
        while (end := _EVENT_END.search(held)) is not None:
            event, held = held[: end.end()], held[end.end() :]
            if _ENDPOINT.search(event.replace(b"\r", b"\n")):
                event = _PARAMETER.sub(lambda match: match[1] + self.tag(match[2]), event)
            done += event
            if not event.startswith(b":"):
                return done + held, None
        if len(held) > MAX_EVENT_BYTES:
            return done + held, None
        return done, held


class Request:
    """What of a request a server gets."""

    def __init__(self, headers: list[tuple[bytes, bytes]], target: bytes) -> None:
        self.headers = headers
        self.target = target


def _tag(key: bytes, owner: bytes, id: bytes) -> bytes:
    # Lengths first, so that no owner and id read like another pair.
    said = b"%d:%b%d:%b" % (len(owner), owner, len(id), id)
    return urlsafe_b64encode(hmac.digest(key, said, "sha256"))[:TAG_CHARS]
