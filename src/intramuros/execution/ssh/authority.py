"""Certificates by which people and a worker know each other: short-lived, for one session each.

One authority for each state directory. Whoever can read its key may enter this worker's sandboxes;
the file is the worker's user's alone. The worker's own host key lives in memory only and is
certified by the same authority, so nobody trusts a key at first sight.
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_private_key,
)

from intramuros.kernel.errors import OperatorError

HOST_NAME: Final = "intramuros-worker"
"""What every worker's host certificate is for; clients look it up under this name."""
MAX_LIFETIME_S: Final = 3600
"""Certificates that are good for longer are not accepted, whoever signed them."""
# Clocks of two machines differ.
SKEW_S: Final = 60
_KEY_FILE: Final = "ca"


@dataclass(frozen=True)
class Permit:
    """What a certificate says of its holder."""

    session_id: str
    key_id: str
    """Who asked for it and when; it is written into the record."""
    lifetime_s: int


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
        except OSError as error:
            raise OperatorError(
                f"cannot use {path} ({error.strerror})", "let this user write the state directory"
            ) from error
        return cls.loaded(directory)

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
                "start the worker with --ssh-listen, and be the user that it runs as",
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
        if not 0 < permit.lifetime_s <= MAX_LIFETIME_S:
            raise ValueError(f"a certificate is good for 1 to {MAX_LIFETIME_S} seconds")
        builder = self._begun(key, SSHCertificateType.USER, permit.session_id, permit.key_id)
        builder = builder.valid_after(int(now_s) - SKEW_S)
        builder = builder.valid_before(int(now_s) + permit.lifetime_s)
        for extension in (b"permit-port-forwarding", b"permit-pty"):
            builder = builder.add_extension(extension, b"")
        return builder.sign(self._key).public_bytes()

    def certify_host(self, key: Ed25519PublicKey) -> bytes:
        """Return a certificate for a worker's host key, which lives as long as the worker."""
        builder = self._begun(key, SSHCertificateType.HOST, HOST_NAME, HOST_NAME)
        builder = builder.valid_after(0).valid_before(2**64 - 1)
        return builder.sign(self._key).public_bytes()

    def _begun(
        self, key: Ed25519PublicKey, kind: SSHCertificateType, principal: str, key_id: str
    ) -> SSHCertificateBuilder:
        builder = SSHCertificateBuilder().public_key(key).type(kind)
        builder = builder.serial(secrets.randbits(63)).key_id(key_id.encode())
        return builder.valid_principals([principal.encode()])


def public_line(key: Ed25519PublicKey) -> str:
    """Return a public key in OpenSSH's one-line form."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """Return a private key in OpenSSH's form."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
