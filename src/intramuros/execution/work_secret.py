"""The credential inside a work item's secret."""

import base64
import binascii
import json
from typing import Final

from intramuros.kernel.telemetry import logger

log = logger("client")

_MAX_SECRET_CHARS: Final = 64 * 1024


def sessions_token(secret: object) -> str | None:
    """Return the credential inside a work item's secret, or None (contract 2.5, 2.6)."""
    if not isinstance(secret, str) or not 0 < len(secret) <= _MAX_SECRET_CHARS:
        return None
    try:
        data = json.loads(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        data = None
    token = data.get("sessions_token") if isinstance(data, dict) else None
    if isinstance(token, str) and token and token.isascii() and token.isprintable():
        return token
    log.warning("work_secret_unreadable", falls_back_to="environment key")
    return None
