"""AES-256-GCM over a stream of any length, in pieces.

A key seals one stream only, so a piece's nonce is its number and whether it is the last (the STREAM
construction): pieces cannot be changed, left out, repeated, reordered or cut off unnoticed.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PIECE_BYTES: Final = 1024 * 1024
_TAG_BYTES: Final = 16
_CONTEXT: Final = b"intramuros snapshot stream 1"


class Damaged(Exception):
    """What was stored is not what was sealed, or not under this key."""


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


class Sealer:
    """Seals one stream under a fresh key."""

    def __init__(self, key: bytes) -> None:
        self._box = AESGCM(key)
        self._held = bytearray()
        self._number = 0

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return what of the sealed stream is ready."""
        self._held += data
        ready = []
        # A full piece is held back until more comes: it may be the last.
        while len(self._held) > PIECE_BYTES:
            ready.append(self._seal(bytes(self._held[:PIECE_BYTES]), last=False))
            del self._held[:PIECE_BYTES]
        return b"".join(ready)

    def finish(self) -> bytes:
        """Return the end of the sealed stream."""
        return self._seal(bytes(self._held), last=True)

    def _seal(self, piece: bytes, *, last: bool) -> bytes:
        nonce = _nonce(self._number, last)
        self._number += 1
        return self._box.encrypt(nonce, piece, _CONTEXT)


class Opener:
    """Opens one sealed stream; nothing comes out that was not sealed."""

    def __init__(self, key: bytes) -> None:
        self._box = AESGCM(key)
        self._held = bytearray()
        self._number = 0

    def feed(self, data: bytes) -> bytes:
        """Take the next sealed bytes and return those that are known to be right.

        Raises:
            Damaged: they are not.
        """
        self._held += data
        ready = []
        size = PIECE_BYTES + _TAG_BYTES
        while len(self._held) > size:
            ready.append(self._open(bytes(self._held[:size]), last=False))
            del self._held[:size]
        return b"".join(ready)

    def finish(self) -> bytes:
        """Return the end of the stream.

        Raises:
            Damaged: something is missing, or changed.
        """
        return self._open(bytes(self._held), last=True)

    def _open(self, piece: bytes, *, last: bool) -> bytes:
        nonce = _nonce(self._number, last)
        self._number += 1
        try:
            return self._box.decrypt(nonce, piece, _CONTEXT)
        except InvalidTag as error:
            raise Damaged("a stored snapshot was changed, cut off, or sealed by another") from error
