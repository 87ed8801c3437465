"""SSH certificates for one session's sandbox: short-lived, for exactly that session.

A worker signs them for who may use its host, the control plane for who may use its API; a worker
takes the latter only if its operator says so. The user name is the session's id, which is also the
only principal. What the control plane signs says that it can be taken back (:data:`REVOCABLE`), so
a worker lets nobody in with it who does not know what has been (``ssh_revocations.py``).

Pure: keys, times and serial numbers are arguments.
"""

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_public_key,
)

HOST_NAME: Final = "intramuros-worker"
"""What every worker's host certificate is for; clients look it up under this name."""
MAX_LIFETIME_S: Final = 3600
"""Certificates that are good for longer are not accepted, whoever signed them."""
STAY_S: Final = 86_400
"""For how long after its certificate's end a connection may still be open, if that is revocable: so
long the control plane remembers it."""
REVOCABLE: Final = b"revocable@intramuros"
"""An extension: who signed it keeps a list of what it took back, and says so in what it signs."""
# Clocks of two machines differ.
SKEW_S: Final = 60
MAX_KEY_CHARS: Final = 4096
_RSA_BITS: Final = 2048
_KINDS: Final = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey


@dataclass(frozen=True)
class Permit:
    """What a certificate says of its holder."""

    session_id: str
    key_id: str
    """Who asked for it and when; it is written into the record."""
    lifetime_s: int
    revocable: bool = False
    """Whether it is to be asked for, at whoever signed it, whether it still lets in."""


def certify(
    authority: Ed25519PrivateKey, key: PublicKey, permit: Permit, serial: int, now_s: float
) -> bytes:
    """Return a certificate with which its holder may enter one session's sandbox, as one line.

    Args:
        serial: nobody else's, below 2**63.
        now_s: seconds since 1970.

    Raises:
        ValueError: it would be good for no time, or too long.
    """
    if not 0 < permit.lifetime_s <= MAX_LIFETIME_S:
        raise ValueError(f"a certificate is good for 1 to {MAX_LIFETIME_S} seconds")
    builder = begun(key, SSHCertificateType.USER, permit.session_id, permit.key_id, serial)
    builder = builder.valid_after(int(now_s) - SKEW_S)
    builder = builder.valid_before(int(now_s) + permit.lifetime_s)
    for extension in (b"permit-port-forwarding", b"permit-pty"):
        builder = builder.add_extension(extension, b"")
    if permit.revocable:
        builder = builder.add_extension(REVOCABLE, b"")
    return builder.sign(authority).public_bytes()


def is_revocable(blob: bytes) -> bool:
    """Tell whether a certificate says that it can be taken back.

    Wherever in it that is said: to hold one for revocable that is not keeps somebody out, no more.

    Args:
        blob: the certificate as it goes over the wire.
    """
    return REVOCABLE in blob


def begun(
    key: PublicKey, kind: SSHCertificateType, principal: str, key_id: str, serial: int
) -> SSHCertificateBuilder:
    """Return what every certificate begins with."""
    builder = SSHCertificateBuilder().public_key(key).type(kind)
    builder = builder.serial(serial).key_id(key_id.encode())
    return builder.valid_principals([principal.encode()])


def read_public_key(line: str) -> PublicKey:
    """Return the key of a line as ``.pub`` files have it; a comment may follow.

    Raises:
        ValueError: it is none, or of a kind that nobody should use any more.
    """
    words = line.split(maxsplit=2)
    if len(line) > MAX_KEY_CHARS or len(words) < 2 or words[0] not in _KINDS or "\n" in line:
        raise ValueError(f"write one public key: {', '.join(_KINDS)}")
    try:
        key = load_ssh_public_key(" ".join(words[:2]).encode("ascii"))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("this is no public key") from error
    if isinstance(key, RSAPublicKey) and key.key_size < _RSA_BITS:
        raise ValueError(f"an RSA key has at least {_RSA_BITS} bits")
    if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey):
        raise ValueError("this is no public key")
    return key


def public_line(key: PublicKey) -> str:
    """Return a public key in OpenSSH's one-line form."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
