"""The server's own keys, sealed at rest.

Each is stored under a name, sealed by AES-256-GCM with the master key; the name is authenticated,
so that one sealed value cannot be passed off as another. The master key is a file beside the
database (mode 0600); without it the sealed values are noise.
"""

import base64
import binascii
import hmac
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import insert, select

from intramuros.control.store.db import Tx
from intramuros.control.store.tables import secrets
from intramuros.kernel.errors import OperatorError

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
# First byte of a sealed value: which format follows.
_FORMAT: Final = b"\x01"


class Sealer:
    """Seals and opens small secrets.

    Args:
        master: 32 bytes.
        randbytes: where nonces come from.
    """

    def __init__(self, master: bytes, randbytes: Callable[[int], bytes]) -> None:
        self._cipher = AESGCM(master)
        self._master = master
        self._randbytes = randbytes

    def mark(self, purpose: str, text: bytes = b"") -> str:
        """Return what only this master key makes of a text, in hex: 64 characters.

        It tells nothing of the key; without a text it names the key.
        """
        return hmac.digest(self._master, b"%b\0%b" % (purpose.encode(), text), "sha256").hex()

    def seal(self, name: str, value: bytes) -> bytes:
        """Return the sealed value."""
        nonce = self._randbytes(_NONCE_BYTES)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, value, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """Return the value that was sealed under this name.

        Raises:
            OperatorError: another master key, another name, or damage.
        """
        nonce, text = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            if sealed[:1] != _FORMAT:
                raise InvalidTag
            return self._cipher.decrypt(nonce, text, name.encode())
        except (InvalidTag, ValueError) as error:
            raise OperatorError(
                f"the server's key {name!r} does not open",
                "restore the master key it was sealed by",
            ) from error


def ensure_secret(
    tx: Tx, sealer: Sealer, name: str, make: Callable[[], bytes], now_us: int
) -> bytes:
    """Return the server's key of this name, made now if there is none.

    Raises:
        OperatorError: it does not open.
    """
    sealed = tx.scalar(select(secrets.c.sealed).where(secrets.c.name == name))
    if sealed is not None:
        return sealer.open(name, sealed)
    value = make()
    tx.execute(
        insert(secrets).values(name=name, sealed=sealer.seal(name, value), created_us=now_us)
    )
    return value


def load_master_key(path: Path, randbytes: Callable[[int], bytes]) -> bytes:
    """Return the master key from its file, made now if there is none.

    Raises:
        OperatorError: unreadable, readable by others, or no key.
    """
    text = read_secret_file(path)
    if text is None:
        fresh = base64.b64encode(randbytes(KEY_BYTES)).decode()
        write_secret_file(path, fresh)
        text = read_secret_file(path) or fresh
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise OperatorError(
            f"{path} is no master key", f"restore it: {KEY_BYTES} bytes in base64 on one line"
        )
    return key


def read_secret_file(path: Path) -> str | None:
    """Return the one line of a secret file, or None when there is no file.

    Raises:
        OperatorError: it cannot be read, or others may read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OperatorError(
            f"cannot read {path} ({error.strerror})", "check its owner and mode"
        ) from error
    with os.fdopen(descriptor) as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise OperatorError(f"{path} may be read by others", f"run: chmod 600 {path}")
        return file.read(4096).strip()


def write_secret_file(path: Path, text: str) -> None:
    """Create a secret file (mode 0600) with one line, durably; an existing file stays as it is.

    Raises:
        OperatorError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link fails when the name is taken, so that two starts at once agree on one key.
            os.link(draft, path)
        except FileExistsError:
            return
        finally:
            draft.unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise OperatorError(
            f"cannot write {path} ({error.strerror})", "check the directory's owner and free space"
        ) from error
