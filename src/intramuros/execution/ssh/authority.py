"""Certificates by which people and a worker know each other: short-lived, for one session each.

One authority for each state directory. Whoever can read its key may enter this worker's sandboxes;
the file is the worker's user's alone. The worker's own host key lives in memory only and is
certified by the same authority, so nobody trusts a key at first sight.
"""

import os
import secrets
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    SSHCertificateType,
    load_ssh_private_key,
)

from intramuros.kernel.errors import OperatorError
from intramuros.protocol.ssh import HOST_NAME, Permit, begun, certify, public_line

_KEY_FILE: Final = "ca"
_PUBLIC_FILE: Final = "ca.pub"


class Authority:
    """A key that signs certificates."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def opened(cls, directory: Path) -> Self:
        """Return the authority of a directory, made now if there is none.

        Raises:
            OperatorError: the directory cannot be used.
        """
        path = directory / _KEY_FILE
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                draft = directory / f"{_KEY_FILE}.{secrets.token_hex(4)}"
                fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(fd, "wb") as file:
                    file.write(private_pem(Ed25519PrivateKey.generate()))
                    os.fsync(fd)
                draft.rename(path)
            made = cls.loaded(directory)
            # For clients that others than this user start: by it they know this worker.
            directory.joinpath(_PUBLIC_FILE).write_text(f"{made.public_line}\n", encoding="utf-8")
        except OSError as error:
            raise OperatorError(
                f"cannot use {path} ({error.strerror})", "let this user write the state directory"
            ) from error
        return made

    @classmethod
    def loaded(cls, directory: Path) -> Self:
        """Return the authority that is there.

        Raises:
            OperatorError: there is none, or this user may not use it.
        """
        path = directory / _KEY_FILE
        try:
            info = path.stat()
            key = load_ssh_private_key(path.read_bytes(), None)
        except OSError as error:
            raise OperatorError(
                f"cannot read {path} ({error.strerror})",
                "name the --state-dir of a worker with --ssh-listen, and be its user",
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise OperatorError(f"{path} is no key", "remove it; the worker makes one") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise OperatorError(f"{path} is no ed25519 key", "remove it; the worker makes one")
        if info.st_mode & 0o077:
            raise OperatorError(f"others may read {path}", f"run: chmod 600 {path}, or remove it")
        return cls(key)

    @property
    def public_line(self) -> str:
        """The public key as known_hosts and authorized_keys have it."""
        return public_line(self._key.public_key())

    def certify(self, key: Ed25519PublicKey, permit: Permit, now_s: float) -> bytes:
        """Return a certificate with which its holder may enter one session's sandbox.

        Args:
            now_s: seconds since 1970.

        Raises:
            ValueError: it would be good for no time, or too long.
        """
        return certify(self._key, key, permit, secrets.randbits(63), now_s)

    def certify_host(self, key: Ed25519PublicKey) -> bytes:
        """Return a certificate for a worker's host key, which lives as long as the worker."""
        serial = secrets.randbits(63)
        builder = begun(key, SSHCertificateType.HOST, HOST_NAME, HOST_NAME, serial)
        builder = builder.valid_after(0).valid_before(2**64 - 1)
        return builder.sign(self._key).public_bytes()


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """Return a private key in OpenSSH's form."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
