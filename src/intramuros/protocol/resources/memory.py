"""Memory stores, memories and their versions (contract-1 section 25, contract-2 section 7)."""

import re
import unicodedata
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, StringConstraints

from intramuros.protocol.resources.base import Metadata, MetadataPatch, Request

MAX_STORE_NAME_CHARS: Final = 255
MAX_STORE_DESCRIPTION_CHARS: Final = 1024
MAX_CONTENT_BYTES: Final = 102_400
MAX_PATH_BYTES: Final = 1024
MAX_PATH_SEGMENTS: Final = 20
MAX_INSTRUCTIONS_CHARS: Final = 4096
# Of one store, and of one session.
MAX_MEMORIES: Final = 2000
MAX_STORES: Final = 8
MOUNT_ROOT: Final = "/mnt/memory"

# Control and format characters, and the line and paragraph separators.
_BANNED: Final = frozenset({"Cc", "Cf", "Zl", "Zp"})

View = Literal["basic", "full"]
Operation = Literal["created", "modified", "deleted"]
Access = Literal["read_write", "read_only"]


def check_store_name(name: str) -> str:
    """Return a store's name.

    Raises:
        ValueError: it has control characters.
    """
    if any(unicodedata.category(char) == "Cc" for char in name):
        raise ValueError("must not contain control characters")
    return name


def check_path(path: str) -> str:
    """Return the path of a memory (contract 25.3).

    Raises:
        ValueError: saying which rule it breaks.
    """
    if not path.startswith("/"):
        raise ValueError("must start with '/'")
    segments = path[1:].split("/")
    if len(segments) > MAX_PATH_SEGMENTS:
        raise ValueError(f"must have at most {MAX_PATH_SEGMENTS} segments")
    if any(segment in ("", ".", "..") for segment in segments):
        raise ValueError("must not have empty, '.' or '..' segments")
    return _check_text(path)


def check_prefix(prefix: str) -> str:
    """Return a path prefix, which ends in a slash and so matches whole segments (contract 25.5).

    Raises:
        ValueError: saying which rule it breaks.
    """
    if not prefix.startswith("/") or not prefix.endswith("/"):
        raise ValueError("must start and end with '/'")
    if prefix != "/":
        check_path(prefix[:-1])
    return prefix


def check_content(content: str) -> str:
    """Return the content of a memory.

    Raises:
        ValueError: it is over the limit.
    """
    size = len(content.encode())
    if size > MAX_CONTENT_BYTES:
        raise ValueError(f"must have at most {MAX_CONTENT_BYTES} bytes of UTF-8, got {size}")
    return content


def slug(name: str) -> str:
    """Return a store's directory name, which may be empty (contract 11.11, contract-2 Q17)."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower(), flags=re.ASCII).strip("-")


def _check_text(path: str) -> str:
    if len(path.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"must have at most {MAX_PATH_BYTES} bytes of UTF-8")
    if any(unicodedata.category(char) in _BANNED for char in path):
        raise ValueError("must not contain control, format or line separator characters")
    if not unicodedata.is_normalized("NFC", path):
        raise ValueError("must be in Unicode Normalization Form C")
    return path


StoreName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_STORE_NAME_CHARS),
    AfterValidator(check_store_name),
]
StoreDescription = Annotated[str, StringConstraints(max_length=MAX_STORE_DESCRIPTION_CHARS)]
Path = Annotated[str, AfterValidator(check_path)]
Content = Annotated[str, AfterValidator(check_content)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class MemoryStoreCreate(Request):
    """``POST /v1/memory_stores``."""

    name: StoreName
    description: StoreDescription | None = None
    metadata: Metadata | None = None


class MemoryStoreUpdate(Request):
    """``POST /v1/memory_stores/{id}``: what is not sent stays."""

    name: StoreName | None = None
    description: StoreDescription | None = None
    metadata: MetadataPatch | None = None


class Precondition(Request):
    """What a memory must hold for an update to apply."""

    type: Literal["content_sha256"]
    content_sha256: Digest


class MemoryCreate(Request):
    """``POST /v1/memory_stores/{id}/memories``."""

    path: Path
    content: Content


class MemoryUpdate(Request):
    """``POST /v1/memory_stores/{id}/memories/{id}``: what is not sent, or null, stays."""

    path: Path | None = None
    content: Content | None = None
    precondition: Precondition | None = None


class MemoryStoreParam(Request):
    """A memory store among the resources of a new session (contract 11.9)."""

    type: Literal["memory_store"]
    memory_store_id: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    access: Access | None = None
    instructions: Annotated[str, StringConstraints(max_length=MAX_INSTRUCTIONS_CHARS)] | None = None
