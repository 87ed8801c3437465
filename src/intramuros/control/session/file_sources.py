"""Uploaded files as the content of messages and results: checked when they arrive.

What the model reads of them is put in place of the reference with each request (``inline.py``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from intramuros.control.catalog import files, service
from intramuros.control.catalog.kinds import FILE
from intramuros.control.identity.principal import Principal
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.protocol.events import FileSource, Inbound

# Contract 10.13.
MAX_DOCUMENTS: Final = 100
# What providers take of one image or document.
MAX_BYTES: Final = 32 * 1024 * 1024
IMAGES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
PDF: Final = "application/pdf"
_TEXTS: Final = frozenset(
    {"application/json", "application/xml", "application/yaml", "application/x-yaml"}
)


@dataclass(frozen=True)
class Named:
    """A block that names a file: where in the request, of which type."""

    place: str
    block: str
    file_id: str


def named(inbound: Sequence[Inbound]) -> list[Named]:
    """Return the files that events name as content."""
    return list(_named(inbound))


def is_text(mime_type: str) -> bool:
    """Tell whether a file of that type is read as text."""
    return mime_type.startswith("text/") or mime_type in _TEXTS


def check(
    tx: Tx, principal: Principal, session_id: str, inbound: Sequence[Inbound], now_us: int
) -> None:
    """Refuse events whose files the model could not be given.

    Raises:
        NotFound: no such file for this caller, or it has expired.
        InvalidRequest: too many (contract 10.13), too large, or of a type that such a block
            cannot have.
    """
    found = named(inbound)
    if sum(one.block == "document" for one in found) > MAX_DOCUMENTS:
        raise InvalidRequest(f"events: at most {MAX_DOCUMENTS} documents from files at once")
    for one in found:
        _check_one(tx, principal, session_id, one, now_us)


def _check_one(tx: Tx, principal: Principal, session_id: str, one: Named, now_us: int) -> None:
    file = service.get(tx, principal.workspace_id, FILE, one.file_id)
    # A worker's token reaches one session: it must not have the model read others' files to it.
    if not principal.scoped and file.parent_id != session_id:
        raise NotFound(f"no file {one.file_id!r}")
    files.of_workspace(tx, principal.workspace_id, one.file_id, now_us)
    kind, size = file.body["mime_type"], file.body["size_bytes"]
    if size > MAX_BYTES:
        raise InvalidRequest(f"{one.place}: file {file.id!r} is over {MAX_BYTES} bytes")
    if one.block == "image" and kind not in IMAGES:
        wanted = ", ".join(sorted(IMAGES))
        raise InvalidRequest(f"{one.place}: file {file.id!r} is {kind}; an image is {wanted}")
    if one.block == "document" and kind != PDF and not is_text(kind):
        raise InvalidRequest(f"{one.place}: file {file.id!r} is {kind}; a document is PDF or text")


def _named(inbound: Sequence[Inbound]) -> Iterator[Named]:
    for index, event in enumerate(inbound):
        for number, block in enumerate(getattr(event, "content", None) or ()):
            source = getattr(block, "source", None)
            if isinstance(source, FileSource):
                place = f"events[{index}].content[{number}]"
                yield Named(place, block.type, source.file_id)
