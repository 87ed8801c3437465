"""What one route may be asked: requests at once, requests a minute, and how large they may be.

In the configuration a route with limits is a mapping::

    routes:
      docs: {url: "http://10.0.0.5:8080", max_concurrent: 20, calls_per_minute: 600}

They protect the server behind the route. Event streams and the ends of sessions are not counted:
they cost a server little, and refusing them would break what is under way. ``meters.py`` counts.

Pure.
"""

from dataclasses import dataclass
from typing import Final

from intramuros.tunnel.sections import Section

MAX_CONCURRENT: Final = 10_000
MAX_PER_MINUTE: Final = 60_000
# A gateway takes no more for any route.
MAX_BODY_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RouteLimits:
    """The limits of one route; None is none."""

    concurrent: int | None = None
    per_minute: int | None = None
    body_bytes: int | None = None


NO_LIMITS: Final = RouteLimits()


def read_limits(section: Section) -> RouteLimits:
    """Take a route's limits from its mapping.

    Raises:
        OperatorError: names the key that is wrong and what to write instead.
    """
    return RouteLimits(
        section.count_if_any("max_concurrent", MAX_CONCURRENT),
        section.count_if_any("calls_per_minute", MAX_PER_MINUTE),
        section.count_if_any("max_body_bytes", MAX_BODY_BYTES),
    )


@dataclass(frozen=True, slots=True)
class OverLimit:
    """Why a request is refused now."""

    key: str
    """The limit's key in the file."""
    limit: int
    status: int = 429
    retry_after_s: int | None = None
    """When to come again; None if that would not help."""
