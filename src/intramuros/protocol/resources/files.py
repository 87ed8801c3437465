"""Files (contract-2 section 8)."""

import re
from typing import Any, Final, Literal

from intramuros.protocol.resources.base import Response, Timestamp

MAX_FILE_NAME_CHARS: Final = 255
MIN_EXPIRY_S: Final = 3600
MAX_EXPIRY_S: Final = 7_776_000
MAX_IDS: Final = 100

_FORBIDDEN: Final = re.compile(r'[<>:"|?*\\/\x00-\x1f]')


class File(Response):
    """A file's metadata."""

    id: str
    type: Literal["file"] = "file"
    filename: str
    mime_type: str
    size_bytes: int
    downloadable: bool
    scope: dict[str, Any] | None
    created_at: Timestamp
    expires_at: Timestamp | None


def file_name(sent: str) -> str:
    """Return the last component of an uploaded name (contract-2 R176, R177, Q26).

    Raises:
        ValueError: too long, or with a character that some file system does not take.
    """
    name = sent.rpartition("/")[2]
    if len(name) > MAX_FILE_NAME_CHARS:
        raise ValueError(f"a file name has at most {MAX_FILE_NAME_CHARS} characters")
    found = _FORBIDDEN.search(name)
    if found or name in {".", ".."}:
        raise ValueError(f"a file name must not contain {(found[0] if found else name)!r}")
    return name
