"""What adapters share: how an error answer asks for patience, what a session may read of it."""

from collections.abc import Mapping
from typing import Final

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import mask_text

CONNECT_TIMEOUT_S: Final = 10.0
# The longest silence between two pieces of a stream; providers send something far more often.
READ_TIMEOUT_S: Final = 300.0
MESSAGE_LIMIT: Final = 500


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the provider's wish in seconds, or None where it has none that makes sense."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            wish = float(headers.get(name, "")) * unit_s
        except ValueError:
            continue
        if 0 <= wish < float("inf"):
            return wish
    return None


def clean(text: str, key: str | None) -> str:
    """Return a provider's words, bounded and without any key; some repeat what they were sent."""
    if key:
        text = text.replace(key, "[our key]")
    return mask_text(text)[:MESSAGE_LIMIT]


def checked_key(key: str | None, where: str) -> str | None:
    """Return a key as it can be sent, or None for none.

    Args:
        where: the setting that holds it, for the error.

    Raises:
        OperatorError: it holds a character that no key has; the error does not show it.
    """
    key = (key or "").strip()
    if not key.isascii() or not (key.isprintable() and " " not in key):
        raise OperatorError(
            "the model provider's key holds a character that no key has",
            f"set {where} again, without quotes or line breaks",
        )
    return key or None
