"""Content of blobs as answers: streamed, ranges included."""

import re
from typing import Final
from urllib.parse import quote

from starlette.responses import StreamingResponse

from intramuros.control.store.blobs import Blob, Blobs
from intramuros.kernel.errors import InvalidRequest

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z", re.ASCII)


async def download(
    store: Blobs, blob: Blob, name: str, mime_type: str, wanted: str | None
) -> StreamingResponse:
    """Answer with a blob's bytes.

    Args:
        name: what a browser would save it as; it never shows it.
        wanted: the request's Range header, if any; one range of bytes is honoured.

    Raises:
        InvalidRequest: the range lies outside.
        Unavailable: the store does not give it.
    """
    span = None if wanted is None else parse_range(wanted, blob.size_bytes)
    start, end = span or (0, blob.size_bytes)
    headers = {
        "content-length": str(end - start),
        "content-disposition": f"attachment; filename*=utf-8''{quote(name, safe='')}",
        "x-content-type-options": "nosniff",
        "accept-ranges": "bytes",
        "etag": f'"{blob.sha256}"',
        **({"content-range": f"bytes {start}-{end - 1}/{blob.size_bytes}"} if span else {}),
    }
    content = await store.read(blob, start, end)
    return StreamingResponse(content, 206 if span else 200, headers, mime_type)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first and the behind-last byte that a Range header asks for.

    Returns:
        None for what is no single range of bytes, which a server may ignore.

    Raises:
        InvalidRequest: nothing of it lies inside.
    """
    found = _RANGE.match(header.strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
    if start >= end:
        raise InvalidRequest(f"range: the content has {size} bytes")
    return start, end
