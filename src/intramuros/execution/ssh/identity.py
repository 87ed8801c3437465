"""A key and a certificate for one person and one session."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from intramuros.execution.ssh.authority import Authority, private_pem
from intramuros.kernel.timing import Clock
from intramuros.protocol.ssh import Permit


def make(
    authority: Authority, session_id: str, who: str, lifetime_s: int, clock: Clock
) -> tuple[bytes, bytes]:
    """Return a new private key and its certificate, as files of OpenSSH's.

    Args:
        who: goes into the certificate, and from there into the worker's record.
        lifetime_s: how long it lets in, in seconds; a connection may last longer.
    """
    key = Ed25519PrivateKey.generate()
    permit = Permit(session_id, who, lifetime_s)
    certificate = authority.certify(key.public_key(), permit, clock.now().timestamp())
    return private_pem(key), certificate + b"\n"
