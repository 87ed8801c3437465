"""The keys under which a worker seals what it stores about snapshots.

One small file in the worker's keeping, shared by the workers that wake each other's sessions. The
first key seals; the others only open, until nothing is left that was sealed under them.
"""

import base64
import binascii
import json
import os
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from intramuros.execution.snapshots.sealed import Damaged
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger

log = logger("snapshots")

KEY_BYTES: Final = 32
_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_MAX_FILE_BYTES: Final = 64 * 1024


class Keyring:
    """The keys of one file; use :meth:`open`."""

    def __init__(self, path: Path, keys: dict[bytes, bytes]) -> None:
        self._path = path
        self._keys = keys

    @classmethod
    def open(cls, path: Path) -> "Keyring":
        """Read the file, or make it with one new key.

        Raises:
            OperatorError: it cannot be read or made, is open to others, or holds no keys.
        """
        try:
            if not path.exists():
                ring = cls(path, {})
                ring.rotate()
                return ring
            mode = path.stat().st_mode
            with path.open("rb") as file:
                raw = file.read(_MAX_FILE_BYTES)
            keys = _parse(raw)
        except OSError as error:
            raise OperatorError(
                f"cannot use the snapshot key file {path} ({error.strerror})",
                "name one with --snapshot-key-file that this user may read",
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise OperatorError(
                f"{path} is no snapshot key file", "copy it anew from another worker, or remove it"
            ) from error
        if mode & 0o077:
            raise OperatorError(
                f"the snapshot key file {path} is open to others", f"run: chmod 600 {path}"
            )
        return cls(path, keys)

    def rotate(self) -> None:
        """Put a new key first.

        Raises:
            OSError: the file cannot be written; the keys are as they were.
        """
        fresh = {secrets.token_bytes(_ID_BYTES): AESGCM.generate_key(KEY_BYTES * 8)}
        self._store({**fresh, **self._keys})

    def forget_old(self) -> int:
        """Drop all keys but the first; returns how many.

        Raises:
            OSError: the file cannot be written; the keys are as they were.
        """
        first = next(iter(self._keys))
        count = len(self._keys) - 1
        if count:
            self._store({first: self._keys[first]})
        return count

    def seal(self, data: bytes, about: str) -> bytes:
        """Return ``data`` sealed for a purpose, under which alone it opens."""
        key_id, key = next(iter(self._keys.items()))
        nonce = os.urandom(_NONCE_BYTES)
        return key_id + nonce + AESGCM(key).encrypt(nonce, data, key_id + about.encode())

    def open_sealed(self, sealed: bytes, about: str) -> bytes:
        """Return what was sealed for this purpose.

        Raises:
            Damaged: it was not, or by a key that is not here.
        """
        key_id, rest = sealed[:_ID_BYTES], sealed[_ID_BYTES:]
        key = self._keys.get(key_id)
        if key is None:
            raise Damaged("it was sealed under a key that this worker does not have")
        try:
            nonce, body = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
            return AESGCM(key).decrypt(nonce, body, key_id + about.encode())
        except (InvalidTag, ValueError) as error:
            raise Damaged("it was changed since it was sealed") from error

    def _store(self, keys: dict[bytes, bytes]) -> None:
        rows = [[k.hex(), base64.b64encode(v).decode()] for k, v in keys.items()]
        draft = self._path.with_name(f"{self._path.name}.new")
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump({"keys": rows}, file)
            file.flush()
            os.fsync(fd)
        draft.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._keys = keys


def _parse(raw: bytes) -> dict[bytes, bytes]:
    try:
        rows = json.loads(raw)["keys"]
        keys = {bytes.fromhex(i): base64.b64decode(k, validate=True) for i, k in rows}
    except binascii.Error as error:
        raise ValueError("no base64") from error
    if not keys or any(len(i) != _ID_BYTES or len(k) != KEY_BYTES for i, k in keys.items()):
        raise ValueError("no keys, or not of the right length")
    return keys
