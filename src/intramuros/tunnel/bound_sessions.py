"""MCP session ids of private servers, each good for the caller alone that it was given to.

A server's id goes to the caller with a tag: a MAC over route, caller and id, under a key that
follows from the gateway's own private key. What comes back is looked at and taken apart again: the
server sees its own ids, a gateway remembers none, and any gateway with the same key can tell, also
after a restart. Callers see ``<id>.<tag>``, which is visible ASCII as the id itself.

On the transport before streamable HTTP the id is in an address, which is sealed (``endpoints.py``).
Sources: MCP 2025-11-25 and 2024-11-05, transports. Protocol 2026-07-28 has no sessions, so its
requests pass as they are.
"""

import hmac
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final
from urllib.parse import unquote_plus

import httpcore2

from intramuros.tunnel.callers import Caller
from intramuros.tunnel.endpoints import (
    PREFIX,
    EndpointRefused,
    Origin,
    Sealer,
    exchanged,
    target_of,
)
from intramuros.tunnel.http_rules import Headers

HEADER: Final = b"mcp-session-id"
# 128 bits of a MAC, in base64 without padding.
TAG_CHARS: Final = 22
_NAME: Final = re.compile(r"(?i)session_?id\Z")
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
        self._sealer = Sealer(owner, keys)

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
            rpc: whether its body is JSON-RPC; of other requests parameters are their own affair.
        """
        kept: list[tuple[bytes, bytes]] = []
        for name, value in headers:
            id = self.known(value) if name == HEADER else value
            if id is None:
                return None
            kept.append((name, id))
        if target.startswith(PREFIX):
            opened = self._sealer.open(target)
            return None if opened is None else Request(kept, opened)
        query = target.partition(b"?")[2]
        names = (
            unquote_plus(part.partition(b"=")[0].decode("latin-1")) for part in query.split(b"&")
        )
        if rpc and any(map(_NAME.match, names)):
            # Callers get such an address sealed, so this one is somebody else's.
            return None
        return Request(kept, target)

    def response(
        self,
        response: httpcore2.Response,
        base: bytes | None = None,
        origins: Sequence[Origin] = (),
    ) -> httpcore2.Response:
        """Return an answer whose ids are tagged, and whose addresses are sealed.

        Args:
            response: the server's.
            base: the target of a GET, whose events may name an address; None of other requests.
            origins: what such an address may name.

        Reading it raises :class:`EndpointRefused` if an address leads elsewhere.
        """
        headers = [
            (name, self.tag(value) if name.lower() == HEADER else value)
            for name, value in response.headers
        ]
        response.headers = headers
        named = {name.lower(): value for name, value in headers}
        kind = named.get(b"content-type", b"").strip().lower()
        if base is None or not kind.startswith(b"text/event-stream"):
            return response
        packed = named.get(b"content-encoding", b"identity").strip().lower() != b"identity"

        def sealed(said: bytes) -> bytes:
            return self._sealer.seal(target_of(said, base, origins))

        content = _unreadable(response) if packed else exchanged(response, sealed)
        kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
        return httpcore2.Response(response.status, headers=kept, content=content)


async def _unreadable(response: httpcore2.Response) -> AsyncIterator[bytes]:
    await response.aclose()
    raise EndpointRefused("the events are packed, though that was not asked for")
    yield b""


class Request:
    """What of a request a server gets."""

    def __init__(self, headers: list[tuple[bytes, bytes]], target: bytes) -> None:
        self.headers = headers
        self.target = target


def _tag(key: bytes, owner: bytes, id: bytes) -> bytes:
    # Lengths first, so that no owner and id read like another pair.
    said = b"%d:%b%d:%b" % (len(owner), owner, len(id), id)
    return urlsafe_b64encode(hmac.digest(key, said, "sha256"))[:TAG_CHARS]
