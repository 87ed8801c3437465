"""The control plane's public keys, as their file has them now: one, or several while they change.

The file holds PEM blocks. What any of them signed is good. To exchange a key nobody restarts: the
new one is added to the files, the control plane begins to sign with it, and the old one is taken
out. A file that is gone or unreadable is given a moment, because it may just be written; then it
proves nobody.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock
from intramuros.protocol.tickets import (
    CallTicket,
    DialTicket,
    Fence,
    TicketError,
    TunnelToken,
    VerifyingKey,
)
from intramuros.tunnel.guard import Stamp, stamp_of

log = logger("control_keys")
T = TypeVar("T")

MAX_KEYS: Final = 4
MAX_FILE_BYTES: Final = 64 * 1024
# So often is the file looked at, at most.
RECHECK_S: Final = 1.0
# So long do keys count whose file cannot be read any more.
GRACE_S: Final = 10.0
_BLOCK: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]+-----.*?-----END [A-Z0-9 ]+-----", re.DOTALL)


def load_control_keys(file: Path) -> dict[str, VerifyingKey]:
    """Read the control plane's public keys, by their fingerprints.

    Raises:
        OperatorError: unreadable, too many, or something else is among them.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_FILE_BYTES + 1)
        blocks = _BLOCK.findall(text)
        if len(blocks) > MAX_KEYS or len(text) > MAX_FILE_BYTES:
            raise TicketError("bad_key", f"it holds more than {MAX_KEYS} keys")
        # What is no PEM at all is named as such.
        keys = [VerifyingKey(block) for block in blocks or [text]]
    except OSError as error:
        raise OperatorError(
            f"cannot read the control plane's key {file} ({error.strerror})",
            "copy the server's public key there",
        ) from error
    except TicketError as error:
        raise OperatorError(
            f"{file} is not the control plane's key ({error})",
            "copy the server's Ed25519 public key there, or several while they change",
        ) from error
    return {key.fingerprint: key for key in keys}


class ControlKeys:
    """Checks statements by the keys that a file has now."""

    def __init__(self, file: Path, clock: Clock) -> None:
        """Read the file.

        Raises:
            OperatorError: it holds no such key.
        """
        self._file = file
        self._clock = clock
        self._stamp: Stamp | None = stamp_of(file)
        self._seen = self._stamp
        self._keys = load_control_keys(file)
        self._looked_s = clock.monotonic()
        self._bad_since_s: float | None = None

    @property
    def fingerprints(self) -> frozenset[str]:
        """The keys that count now; asking costs one look at the file a second."""
        return frozenset(self._current())

    def read_tunnel_token(self, text: str) -> tuple[TunnelToken, str]:
        """Return a tunnel token and the fingerprint of its key; raises TicketError."""
        return self._read(lambda key: key.read_tunnel_token(text))

    def read_dial_ticket(self, text: str, now_s: float) -> DialTicket:
        """Return a dial ticket; raises TicketError."""
        return self._read(lambda key: key.read_dial_ticket(text, now_s))[0]

    def read_call_ticket(self, text: str, now_s: float) -> CallTicket:
        """Return a call ticket; raises TicketError."""
        return self._read(lambda key: key.read_call_ticket(text, now_s))[0]

    def read_fence(self, text: str, now_s: float) -> Fence:
        """Return a fence; raises TicketError."""
        return self._read(lambda key: key.read_fence(text, now_s))[0]

    def _read(self, read: Callable[[VerifyingKey], T]) -> tuple[T, str]:
        return read_by(self._current(), read)

    def _current(self) -> dict[str, VerifyingKey]:
        now_s = self._clock.monotonic()
        if now_s - self._looked_s >= RECHECK_S:
            self._looked_s = now_s
            self._look(now_s)
        if self._bad_since_s is not None and now_s - self._bad_since_s >= GRACE_S:
            return {}
        return self._keys

    def _look(self, now_s: float) -> None:
        stamp, seen = stamp_of(self._file), self._seen
        self._seen = stamp
        if stamp == self._stamp and self._bad_since_s is None:
            return
        if stamp != seen and stamp is not None:
            # The beginning of a file is a file, too: a later look finds it still.
            return
        try:
            keys = load_control_keys(self._file)
        except OperatorError as error:
            if self._bad_since_s is None:
                self._bad_since_s = now_s
                log.error("control_keys_unreadable", reason=str(error), grace_s=GRACE_S)
            return
        self._stamp, self._bad_since_s = stamp, None
        if keys.keys() != self._keys.keys():
            log.warning("control_keys_changed", keys=sorted(keys), before=sorted(self._keys))
        self._keys = keys


def read_by(keys: Mapping[str, VerifyingKey], read: Callable[[VerifyingKey], T]) -> tuple[T, str]:
    """Return what one of several keys reads, and that key's fingerprint.

    Raises:
        TicketError: none of them made it, or it is no good otherwise.
    """
    refused = TicketError("bad_signature", "not signed by this control plane")
    for fingerprint, key in keys.items():
        try:
            return read(key), fingerprint
        except TicketError as error:
            if error.code != refused.code:
                raise
    raise refused
