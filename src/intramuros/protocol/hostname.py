"""Names of private servers on the wire: ``<label>.<tunnel domain>``, never an address.

Pure: no resolver, no I/O.
"""

import re
from typing import Final

# RFC 1035 3.1: a name is at most 255 octets on the wire, which is 253 characters of text.
MAX_HOST_CHARS: Final = 253

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The last label must hold a letter, so that no spelling of an IPv4 address is a host name.
_HOST: Final = re.compile(rf"(?=[^\n]*\.[a-z0-9-]*[a-z][a-z0-9-]*\Z)(?:{_LABEL}\.)+{_LABEL}\Z")


class BadHost(ValueError):
    """The text is no route host; send lower-case letters, digits and hyphens, dots between."""


def check_host(text: str) -> str:
    """Return the text when it is a lower-case host name of at least two labels.

    Raises:
        BadHost: upper case, an address, a port, a trailing dot, or anything else.
    """
    if len(text) > MAX_HOST_CHARS or _HOST.match(text) is None:
        raise BadHost(f"not a route host: {text[:64]!r}")
    return text


def is_under(host: str, domain: str) -> bool:
    """Whether the host is exactly one label below the domain, as a wildcard SAN covers it."""
    label, dot, rest = host.partition(".")
    return bool(label) and bool(dot) and rest == domain
