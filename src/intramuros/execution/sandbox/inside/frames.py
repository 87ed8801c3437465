"""Frames between the host and a sandbox's process 1: one socket pair, both directions alike.

Layout (all numbers unsigned, big-endian)::

    frame := length:4  field*          length counts the bytes after itself, at most MAX_FRAME
    field := name_length:1  name  value_length:4  value

Names are ASCII, values are raw bytes; a name occurs once. Nothing a command prints travels here
except as a value, so no output can be taken for framing. The host sends ``op`` and ``id``; every
answer carries the ``id`` it belongs to. Version 1.

Pure: no I/O. The host must treat a decoded frame as foreign data.
"""

from __future__ import annotations

MAX_FRAME = 32 * 1024 * 1024
"""Holds the largest legal answer (a 20 MiB PDF) with room; anything longer is a broken peer."""
MAX_FIELDS = 64


class FrameError(ValueError):
    """The peer broke the format: close the channel."""


def encode(fields: dict[str, bytes]) -> bytes:
    """Return one frame holding ``fields``.

    Raises:
        FrameError: it would be longer than MAX_FRAME, or a name is longer than 255 bytes.
    """
    parts = [b""]
    for name, value in fields.items():
        raw = name.encode("ascii")
        if len(raw) > 255:
            raise FrameError("field name too long")
        parts += (bytes((len(raw),)), raw, len(value).to_bytes(4, "big"), value)
    body = b"".join(parts)
    if len(body) > MAX_FRAME:
        raise FrameError(f"frame of {len(body)} bytes is over the limit of {MAX_FRAME}")
    return len(body).to_bytes(4, "big") + body


def decode(body: bytes) -> dict[str, bytes]:
    """Return the fields of a frame's body.

    Raises:
        FrameError: cut short, repeated names, too many fields or a name that is not ASCII.
    """
    fields: dict[str, bytes] = {}
    at, end = 0, len(body)
    while at < end:
        name_end = at + 1 + body[at]
        value_at = name_end + 4
        value_end = value_at + int.from_bytes(body[name_end:value_at], "big")
        if value_end > end or value_at > end:
            raise FrameError("field cut short")
        raw = body[at + 1 : name_end]
        if not raw.isascii():
            raise FrameError("field name is not ASCII")
        name = raw.decode("ascii")
        if name in fields or len(fields) == MAX_FIELDS:
            raise FrameError("repeated field or too many fields")
        fields[name] = body[value_at:value_end]
        at = value_end
    return fields


class Reader:
    """Cuts a byte stream into frames; holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, bytes]]:
        """Take the next bytes of the stream and return the frames they complete.

        Raises:
            FrameError: the stream is broken; no later byte can be trusted.
        """
        self._buffer += data
        frames = []
        at = 0
        while len(self._buffer) - at >= 4:
            length = int.from_bytes(self._buffer[at : at + 4], "big")
            if length > MAX_FRAME:
                raise FrameError(f"frame of {length} bytes is over the limit of {MAX_FRAME}")
            if len(self._buffer) - at - 4 < length:
                break
            frames.append(decode(bytes(self._buffer[at + 4 : at + 4 + length])))
            at += 4 + length
        del self._buffer[:at]
        return frames
