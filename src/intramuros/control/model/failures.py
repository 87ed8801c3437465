"""What adapters share: how an error answer asks for patience, what a session may read of it."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from intramuros.kernel.telemetry import mask_text

CONNECT_TIMEOUT_S: Final = 10.0
# The longest silence between two pieces of a stream; providers send something far more often.
READ_TIMEOUT_S: Final = 300.0
MESSAGE_LIMIT: Final = 500


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the provider's wish in seconds, or None where it has none that makes sense.

    It may name a time instead; how far away that is, its own clock says (RFC 9110, 10.2.3).
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            wish = float(headers.get(name, "")) * unit_s
        except ValueError:
            continue
        if 0 <= wish < float("inf"):
            return wish
    return _until(headers.get("retry-after", ""), headers.get("date", ""))


def _until(wish: str, now: str) -> float | None:
    try:
        apart_s = (parsedate_to_datetime(wish) - parsedate_to_datetime(now)).total_seconds()
    except (ValueError, TypeError, OverflowError):  # no times, or only one with a zone
        return None
    return apart_s if apart_s >= 0 else None


def clean(text: str, key: str | None) -> str:
    """Return a provider's words, bounded and without any key; some repeat what they were sent."""
    if key:
        text = text.replace(key, "[our key]")
    return mask_text(text)[:MESSAGE_LIMIT]
