"""What servers tell each other through the database, so that only they can read or say it.

Whoever may connect to a PostgreSQL database may listen to its notifications, and send some. So
each is sealed: by AES-256-GCM, with a key that the sender's name and a secret of all servers make.
All are numbered, and a receiver opens only what has a higher number than the last of that sender,
so that nothing is heard twice. Whom it does not know yet it hears only if what is said is recent:
it may be the words of a server that is gone, said again by somebody else.
"""

import base64
import binascii
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from intramuros.control.store.secrets import KEY_BYTES
from intramuros.kernel.timing import Clock, to_micros

_PURPOSE: Final = b"intramuros voices 1"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_TIME_BYTES: Final = 8
# A notification has less than 8000 bytes, of which the sender's name has 32.
LONGEST_BYTES: Final = (8000 - 1 - 32 - 1) // 4 * 3 - _NONCE_BYTES - _TAG_BYTES - _TIME_BYTES
# So far may the clocks of two servers be apart when they meet, with what takes time between them.
APART_S: Final = 120.0
# Senders that are remembered; who is forgotten is known again by the next thing that is said.
SENDERS_LIMIT: Final = 256


class Strange(ValueError):
    """It was not said by one of us, or not now."""


class Correspondence:
    """Seals what this server says and opens what others say.

    Args:
        secret: what all servers of one database share and nobody else knows, 32 bytes.
        me: this server's name, 32 characters that no other has or had, such as random ones in hex.
    """

    def __init__(self, secret: bytes, me: str, clock: Clock) -> None:
        self._secret = secret
        self.me: Final = me
        self._clock = clock
        self._said = 0
        self._mine = self._cipher(me)
        self._others: dict[str, tuple[AESGCM, int]] = {}

    def seal(self, said: bytes) -> str:
        """Return what can be told.

        Args:
            said: of at most :data:`LONGEST_BYTES`.
        """
        # Counted, for a clock may be set back.
        self._said += 1
        nonce = self._said.to_bytes(_NONCE_BYTES)
        timed = self._now_us().to_bytes(_TIME_BYTES) + said
        sealed = nonce + self._mine.encrypt(nonce, timed, None)
        return f"{self.me}:{base64.b64encode(sealed).decode()}"

    def open(self, told: str) -> bytes | None:
        """Return what another said; None for what this one has said itself.

        Raises:
            Strange: it is none of ours, was heard before, or the clocks are too far apart.
        """
        sender, _, text = told.partition(":")
        if sender == self.me:
            return None
        if len(sender) != len(self.me):
            raise Strange("it has no sender")
        known = self._others.get(sender)
        cipher, last = known or (self._cipher(sender), 0)
        try:
            sealed = base64.b64decode(text, validate=True)
            nonce = sealed[:_NONCE_BYTES]
            timed = cipher.decrypt(nonce, sealed[_NONCE_BYTES:], None)
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise Strange("it does not open") from error
        number = int.from_bytes(nonce)
        if number <= last:
            raise Strange("it was heard before")
        at_us = int.from_bytes(timed[:_TIME_BYTES])
        if known is None and abs(at_us - self._now_us()) > APART_S * 1_000_000:
            raise Strange("it is of another time, or the servers' clocks differ")
        self._others.pop(sender, None)
        self._others[sender] = cipher, number
        if len(self._others) > SENDERS_LIMIT:
            del self._others[next(iter(self._others))]
        return timed[_TIME_BYTES:]

    def _now_us(self) -> int:
        return to_micros(self._clock.now())

    def _cipher(self, name: str) -> AESGCM:
        key = HKDF(SHA256(), KEY_BYTES, salt=name.encode(), info=_PURPOSE).derive(self._secret)
        return AESGCM(key)
