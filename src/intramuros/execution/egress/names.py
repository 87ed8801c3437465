"""Host names in the one form that is compared, and which a sandbox may look up. Pure."""

import re
from functools import lru_cache
from typing import Final, Protocol

MAX_NAME_CHARS: Final = 253
WEB_PORTS: Final = frozenset({80, 443})
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)


class Names(Protocol):
    """Which names a sandbox may look up, and on which ports. Pure: no look-up happens here."""

    def admits(self, name: str) -> bool:
        """Tell whether a name may be looked up at all.

        Args:
            name: as :func:`canonical` returns it.
        """
        ...

    def ports(self) -> frozenset[int]:
        """Return the TCP ports that can be connected to at all; at least 80 and 443."""
        ...


def canonical(name: str) -> str | None:
    """Return a DNS name in the one form that is compared: lower case, without the last dot.

    Returns:
        None for what is no host name: empty or overlong, labels that are, other characters than
        letters, digits, ``-`` and ``_`` (names in other scripts come in their ``xn--`` form), or
        an IPv4 address.
    """
    # The last dot is one more.
    return _read(name) if len(name) <= MAX_NAME_CHARS + 1 else None


@lru_cache(maxsize=1024)
def _read(name: str) -> str | None:
    if not name.isascii():
        return None
    plain = name.removesuffix(".").lower()
    labels = plain.split(".")
    if len(plain) > MAX_NAME_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    # What ends in digits alone is an address to most programs, in one of its many spellings.
    return None if labels[-1].isdigit() or labels[-1].startswith("0x") else plain
