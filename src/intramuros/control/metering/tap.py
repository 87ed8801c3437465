"""Reads the usage out of an answer of the Messages API while it passes by."""

import json
from collections.abc import Mapping
from typing import Any, Final

from intramuros.control.metering.usage import Use, read

# An answer that is longer is passed on all the same; its usage is then not known.
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
# Events with usage are short; longer lines hold content.
MAX_LINE_BYTES: Final = 64 * 1024


class Tap:
    """What one answer says of its usage.

    Feed it parsed events, or the raw bytes of an answer in any pieces.

    Args:
        model: as it was asked for.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._usage: dict[str, Any] = {}
        self._streamed = False
        self._line = bytearray()
        self._skipping = False

    def begin(self, *, streamed: bool) -> None:
        """Say whether the bytes that come are server-sent events, or one JSON object."""
        self._streamed = streamed

    def feed(self, chunk: bytes) -> None:
        """Take a piece of the answer."""
        if not self._streamed:
            self._keep(chunk, MAX_ANSWER_BYTES)
            return
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            self._keep(piece, MAX_LINE_BYTES)
            self._end_line()
        self._keep(rest, MAX_LINE_BYTES)

    def event(self, event: Mapping[str, Any]) -> None:
        """Take an event of the stream."""
        kind = event.get("type")
        if kind == "message_start" and isinstance(event.get("message"), Mapping):
            self._merge(event["message"].get("usage"))
        elif kind == "message_delta":
            self._merge(event.get("usage"))

    def use(self) -> Use | None:
        """Return what was used, as far as is known; None if nothing is."""
        if not self._streamed and self._line and not self._skipping:
            answer = _parsed(bytes(self._line))
            self._line.clear()
            self._merge(answer.get("usage"))
        return read(self._model, self._usage) if self._usage else None

    def _keep(self, piece: bytes, limit: int) -> None:
        if self._skipping or len(self._line) + len(piece) > limit:
            self._skipping = True
            self._line.clear()
        else:
            self._line += piece

    def _end_line(self) -> None:
        line = bytes(self._line)
        skipped, self._skipping = self._skipping, False
        self._line.clear()
        if not skipped and line.startswith(b"data:") and b'"usage"' in line:
            self.event(_parsed(line.removeprefix(b"data:")))

    def _merge(self, usage: object) -> None:
        """Later counts are totals, and win; what they leave out stays."""
        if isinstance(usage, Mapping):
            self._usage |= {name: value for name, value in usage.items() if value is not None}


def _parsed(data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
