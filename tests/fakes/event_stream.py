"""Amazon's event streams, as Bedrock answers with them: frames with checksums around JSON."""

import base64
import json
import struct
import zlib
from typing import Any


def chunk(event: dict[str, Any]) -> bytes:
    """Return the frame of one event of the Messages API."""
    inner = base64.b64encode(json.dumps(event).encode()).decode()
    headers = {":event-type": "chunk", ":message-type": "event"}
    return frame(headers, {"bytes": inner})


def exception(name: str, message: str) -> bytes:
    """Return the frame of an exception that ends the stream."""
    headers = {":exception-type": name, ":message-type": "exception"}
    return frame(headers, {"message": message})


def frame(headers: dict[str, str], body: dict[str, Any]) -> bytes:
    """Return one frame."""
    named = {**headers, ":content-type": "application/json"}
    head = b"".join(_header(name, value) for name, value in named.items())
    payload = json.dumps(body).encode()
    prelude = struct.pack("!II", 12 + len(head) + len(payload) + 4, len(head))
    prelude += struct.pack("!I", zlib.crc32(prelude))
    whole = prelude + head + payload
    return whole + struct.pack("!I", zlib.crc32(whole))


def _header(name: str, value: str) -> bytes:
    text = value.encode()
    return bytes([len(name)]) + name.encode() + b"\x07" + struct.pack("!H", len(text)) + text
