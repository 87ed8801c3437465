"""Time zones by their IANA names (contract-2 R214)."""

import re
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}", re.ASCII)
# What some systems keep beside the zones: links that mean another zone on each machine, and second
# copies of the database.
_NO_ZONES: Final = frozenset({"localtime", "posixrules", "Factory"})
_COPIES: Final = ("posix/", "right/")


def zone(name: str) -> ZoneInfo:
    """Return a zone.

    The machine's own database comes first, because it is kept up to date; the package ``tzdata``
    stands in where a machine has none.

    Raises:
        ValueError: IANA's database has none of that name.
    """
    unknown = ValueError(f"{name[:64]!r} is no IANA time zone, such as Europe/Dublin or UTC")
    if not _NAME.fullmatch(name) or name in _NO_ZONES or name.startswith(_COPIES):
        raise unknown
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise unknown from error
