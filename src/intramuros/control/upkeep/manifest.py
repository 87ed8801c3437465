"""What a backup says of itself, sealed by the master key of what it was made of.

::

    BACKUP/manifest.json       this; written last
    BACKUP/database.sqlite     every row, whatever engine they came from
    BACKUP/blobs.jsonl         every blob that a row refers to: key, size_bytes, sha256
    BACKUP/blobs/              their bytes, unless they are kept elsewhere

The master key is not in it; the manifest names the key by its fingerprint, and its ``seal`` is what
only that key makes of the rest, so that nobody without the key can pass off another.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from intramuros.control.store.secrets import Sealer
from intramuros.control.upkeep.attached import fingerprint
from intramuros.kernel.errors import DomainError, OperatorError

FORMAT: Final = "intramuros backup 1"
MANIFEST: Final = "manifest.json"
DATABASE: Final = "database.sqlite"
BLOBS: Final = "blobs.jsonl"
BLOB_DIR: Final = "blobs"
# Rows are counted and lost blobs named in it, nothing else.
_LIMIT_BYTES: Final = 64 * 1024 * 1024
_PURPOSE: Final = "backup manifest"
_PART_BYTES: Final = 1024 * 1024


class BadBackup(DomainError):
    """What lies there is not what was backed up: use another backup."""


@dataclass(frozen=True)
class Content:
    """A file of a backup: its size in bytes and its SHA-256 in hex."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything that a backup holds.

    Attributes:
        made_at: RFC 3339.
        version: of the program that made it.
        engine: that the rows came from.
        revision: their schema.
        master_key: fingerprint of the key that seals the secrets among them.
        audit_records: how long the audit chain is.
        audit_hash: its end, to compare with what is noted elsewhere.
        rows: how many each table has.
        database: the file of rows.
        blob_list: the list of blobs.
        blobs: how many it names.
        blob_bytes: how much those take.
        with_blobs: whether their bytes are here.
        lost: keys of blobs that the store had lost already.
    """

    made_at: str
    version: str
    engine: str
    revision: str
    master_key: str
    audit_records: int
    audit_hash: str
    rows: Mapping[str, int]
    database: Content
    blob_list: Content
    blobs: int
    blob_bytes: int
    with_blobs: bool
    lost: tuple[str, ...] = ()


def write(directory: Path, manifest: Manifest, sealer: Sealer) -> None:
    """Write a manifest into the directory of a backup that is whole but for it."""
    body = {"format": FORMAT, **asdict(manifest)}
    body["seal"] = _seal(body, sealer)
    (directory / MANIFEST).write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def read(directory: Path, sealer: Sealer | None) -> Manifest:
    """Return the manifest of a backup.

    Args:
        directory: the backup.
        sealer: the master key, to see that the manifest is what was written.

    Raises:
        OperatorError: there is no backup, or it belongs to another master key.
        BadBackup: it is not what was written.
    """
    try:
        with (directory / MANIFEST).open("rb") as file:
            body = json.loads(file.read(_LIMIT_BYTES))
        if body["format"] != FORMAT:
            raise OperatorError(
                f"{directory} has the format {body['format']!r}", "use the version that wrote it"
            )
        seal = body.pop("seal")
        manifest = _parsed(body)
    except FileNotFoundError as error:
        raise OperatorError(
            f"{directory} is no backup: it has no {MANIFEST}",
            "name the directory that `intramuros db backup` made",
        ) from error
    except OSError as error:
        raise OperatorError(
            f"cannot read {directory} ({error.strerror})", "check its owner and mode"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadBackup(f"{directory / MANIFEST} is damaged") from error
    if sealer is not None:
        if manifest.master_key != fingerprint(sealer):
            raise OperatorError(
                f"the backup is of the master key {manifest.master_key}, not of"
                f" {fingerprint(sealer)}",
                "put that key into the data directory",
            )
        if not hmac.compare_digest(str(seal), _seal(body, sealer)):
            raise BadBackup(f"{directory / MANIFEST} was changed")
    return manifest


def content_of(file: Path) -> Content:
    """Return what a file holds."""
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while part := stream.read(_PART_BYTES):
            digest.update(part)
            size += len(part)
    return Content(size, digest.hexdigest())


def check_content(file: Path, expected: Content) -> None:
    """Compare a file with what the manifest says of it.

    Raises:
        BadBackup: it is missing or not the same.
    """
    try:
        found = content_of(file)
    except OSError as error:
        raise BadBackup(f"{file} cannot be read ({(error.strerror or '').lower()})") from error
    if found != expected:
        raise BadBackup(
            f"{file} is damaged: {found.size_bytes} bytes of {expected.size_bytes}, SHA-256"
            f" {found.sha256[:16]}… instead of {expected.sha256[:16]}…"
        )


def _seal(body: Mapping[str, Any], sealer: Sealer) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return sealer.mark(_PURPOSE, text.encode())


def _parsed(body: Mapping[str, Any]) -> Manifest:
    given = {key: value for key, value in body.items() if key != "format"}
    given["database"] = Content(**given["database"])
    given["blob_list"] = Content(**given["blob_list"])
    given["lost"] = tuple(given["lost"])
    return Manifest(**given)
