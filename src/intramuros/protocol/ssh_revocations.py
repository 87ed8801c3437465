"""Which SSH certificates a control plane has taken back, as it tells its workers. Pure.

::

    worker                                          server
      │ GET /x/ssh_revocations, every two seconds      │  with an environment key: of its sessions;
      │   if-none-match: "…"                           │  with a pool key: of all cloud sessions
      │◄──────── 304, or {"authority", "serials"} ─────│

The list is whole each time, so there is nothing to miss. What is on it stays there for as long as a
connection by that certificate may be open; no certificate comes off it before.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

PATH: Final = "/x/ssh_revocations"
MAX_SERIALS: Final = 100_000
MAX_BYTES: Final = 4 * 1024 * 1024
# 63 bits, as the control plane draws them.
_SERIAL: Final = re.compile(r"[1-9][0-9]{0,18}|0", re.ASCII)
_AUTHORITY: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}", re.ASCII)


@dataclass(frozen=True)
class Revocations:
    """A list.

    Args:
        authority: fingerprint of the key that signed these certificates, ``SHA256:…``.
        serials: theirs.
    """

    authority: str
    serials: frozenset[int]

    def dump(self) -> dict[str, object]:
        """Return the list as JSON values; serials are texts, which any reader keeps whole."""
        serials = [str(serial) for serial in sorted(self.serials)]
        return {"type": "ssh_revocations", "authority": self.authority, "serials": serials}


def read_revocations(raw: object) -> Revocations:
    """Return the list that :meth:`Revocations.dump` wrote.

    Raises:
        ValueError: it is none, or has an entry that is not understood; then none of it counts.
    """
    if not isinstance(raw, Mapping) or raw.get("type") != "ssh_revocations":
        raise ValueError("not a list of revoked certificates")
    authority, serials = raw.get("authority"), raw.get("serials")
    if not isinstance(authority, str) or not _AUTHORITY.fullmatch(authority):
        raise ValueError("a list of revoked certificates without its authority")
    if not isinstance(serials, list) or len(serials) > MAX_SERIALS:
        raise ValueError("malformed list of revoked certificates")
    if not all(isinstance(one, str) and _SERIAL.fullmatch(one) for one in serials):
        raise ValueError("malformed list of revoked certificates")
    return Revocations(authority, frozenset(map(int, serials)))
