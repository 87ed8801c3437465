"""List pages: signed, stateless cursors and the ``{data, next_page}`` envelope."""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import Clock

CURSOR_TTL_S: Final = 24 * 60 * 60
# A position may be a memory's path: 1,024 bytes, which escaped as JSON are up to 3,072.
MAX_CURSOR_CHARS: Final = 6 * 1024
_PREFIX: Final = "page_"
_MAC_BYTES: Final = 16


class Cursors:
    """Seals and opens list positions (contract 4.16, contract-2 Q40).

    A cursor is bound to what produced it (the list, the workspace, the filters): with another it
    is refused, so a client can neither skip nor repeat rows without noticing.

    Args:
        key: at least 32 random bytes, kept by the server.
        clock: tells a cursor's age.
    """

    def __init__(self, key: bytes, clock: Clock) -> None:
        self._key = key
        self._clock = clock

    def seal(self, bound: Mapping[str, object], position: Sequence[int | str]) -> str:
        """Return a cursor for the position, bound to ``bound`` (JSON values)."""
        issued_s = int(self._clock.now().timestamp())
        payload = json.dumps([issued_s, _digest(bound), *position], separators=(",", ":")).encode()
        sealed = base64.urlsafe_b64encode(self._mac(payload) + payload)
        return _PREFIX + sealed.rstrip(b"=").decode()

    def open(self, bound: Mapping[str, object], cursor: str) -> list[Any]:
        """Return the position that was sealed.

        Raises:
            InvalidRequest: not a cursor of ours, a day old, or of another list or other filters.
        """
        issued_s, digest, *position = self._payload(cursor)
        if digest != _digest(bound):
            raise InvalidRequest("page: this cursor belongs to a list with other filters")
        if self._clock.now().timestamp() - issued_s > CURSOR_TTL_S:
            raise InvalidRequest("page: this cursor has expired; start again without it")
        return list(position)

    def _payload(self, cursor: str) -> list[Any]:
        malformed = InvalidRequest("page: this is no cursor of this server; start again without it")
        if not cursor.startswith(_PREFIX) or len(cursor) > MAX_CURSOR_CHARS:
            raise malformed
        text = cursor.removeprefix(_PREFIX)
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise malformed from None
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(payload)):
            raise malformed
        decoded: list[Any] = json.loads(payload)
        return decoded

    def _mac(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, payload, "sha256")[:_MAC_BYTES]


def page(data: Sequence[object], next_page: str | None) -> dict[str, object]:
    """Return the list envelope (contract 4.10)."""
    return {"data": data, "next_page": next_page}


def check_limit(limit: int | None, default: int, maximum: int) -> int:
    """Return the page size.

    Raises:
        InvalidRequest: out of range (contract-2 Q37).
    """
    if limit is None:
        return default
    if not 1 <= limit <= maximum:
        raise InvalidRequest(f"limit: must be from 1 to {maximum}")
    return limit


def _digest(bound: Mapping[str, object]) -> str:
    canonical = json.dumps(bound, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(canonical).hexdigest()[:16]
