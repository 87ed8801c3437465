"""An HTTP answer as people may see it: bounded and without secrets (contract-2 R090)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from intramuros.kernel.redact import PATTERNS, Redactor

MAX_READ_BYTES: Final = 64 * 1024
MAX_SHOWN_CHARS: Final = 2048
_MASK: Final = "[masked]"


@dataclass(frozen=True)
class Answer:
    """What a server answered; ``body`` may be cut."""

    status: int
    content_type: str
    body: bytes
    cut: bool

    def shown(self, secrets: Iterable[str]) -> dict[str, Any]:
        """Return the answer as the API shows it.

        Args:
            secrets: what the request carried, which a server may echo.
        """
        text = self.body.decode("utf-8", "replace")
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, _MASK)
            # A value that the reading limit cut in half no longer matches as a whole.
            text = _without_tail(text, secret) if self.cut else text
        text, _ = _REDACTOR.text(text)
        return {
            "status_code": self.status,
            "content_type": self.content_type,
            "body": text[:MAX_SHOWN_CHARS],
            "body_truncated": self.cut or len(text) > MAX_SHOWN_CHARS,
        }


async def read_answer(response: httpx2.Response) -> Answer:
    """Read a streamed response, at most 64 KiB of it, and close it."""
    body, cut = b"", False
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_READ_BYTES:
                body, cut = body[:MAX_READ_BYTES], True
                break
    finally:
        await response.aclose()
    content_type = response.headers.get("content-type", "")[:255]
    return Answer(response.status_code, content_type, body, cut)


def _without_tail(text: str, secret: str) -> str:
    for length in range(min(len(secret), len(text)), 3, -1):
        if text.endswith(secret[:length]):
            return text[:-length] + _MASK
    return text


_REDACTOR: Final = Redactor(patterns=PATTERNS)
