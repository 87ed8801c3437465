"""Certificates with which people enter a session's sandbox, at workers that trust this server.

Each is audited in the transaction that makes it, before anybody has it. It names one session and
whoever asked, is good for minutes, and opens nothing once the session is over: none is made for it
any more, and its worker sees people out.
"""

import hashlib
from base64 import b64decode, b64encode
from datetime import timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from intramuros.control.identity import audit
from intramuros.control.identity.principal import Principal
from intramuros.control.session.sessions import Sessions
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import Conflict, InvalidRequest, OperatorError
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock, rfc3339
from intramuros.protocol.resources.ssh import SshCertificateRequest
from intramuros.protocol.ssh import Permit, certify, public_line, read_public_key

Shown = dict[str, Any]
# As `ssh-keygen -l` shows keys.
_PREFIX: Final = "SHA256:"


class Visits:
    """Makes certificates.

    Args:
        authority: the server's own signing key for them, in OpenSSH's form.

    Raises:
        OperatorError: that is no such key.
    """

    def __init__(self, clock: Clock, ids: IdFactory, sessions: Sessions, authority: bytes) -> None:
        self._clock = clock
        self._ids = ids
        self._sessions = sessions
        key = load_ssh_private_key(authority, None)
        if not isinstance(key, Ed25519PrivateKey):
            raise OperatorError("the server's SSH authority is no ed25519 key", "restore it")
        self._key = key

    @property
    def public_line(self) -> str:
        """What a worker is to trust, in OpenSSH's one-line form."""
        return public_line(self._key.public_key())

    def certify(
        self, tx: Tx, principal: Principal, session_id: str, wanted: SshCertificateRequest
    ) -> Shown:
        """Return a certificate for the sandbox of a session.

        Raises:
            NotFound: no such session for this caller.
            PermissionDenied: a user who may not read files, and so may not look at them either.
            InvalidRequest: no public key.
            Conflict: the session is over.
        """
        row = self._sessions.get(tx, principal, session_id)
        principal.require_content()
        if row.archived_us is not None or row.status == "terminated":
            raise Conflict(f"{session_id} is over, so nobody enters its sandbox")
        try:
            key = read_public_key(wanted.public_key)
        except ValueError as error:
            raise InvalidRequest(f"public_key: {error}") from error
        now = self._clock.now()
        who = principal.user_id or principal.service_account_id or principal.credential_id
        serial = int.from_bytes(self._ids.random(8), "big") >> 1
        key_id = f"{who} by {principal.credential_id} at {rfc3339(now)}"
        audit.record(
            tx,
            self._clock,
            "ssh.certify",
            workspace_id=principal.workspace_id,
            session_id=session_id,
            fields={
                "by": principal.credential_id,
                "who": who,
                "serial": str(serial),
                "key": fingerprint(public_line(key)),
                "ttl_s": wanted.ttl_s,
            },
        )
        permit = Permit(session_id, key_id, wanted.ttl_s)
        made = certify(self._key, key, permit, serial, now.timestamp())
        return {
            "type": "ssh_certificate",
            "session_id": session_id,
            "certificate": made.decode(),
            "serial": str(serial),
            "key_id": key_id,
            "expires_at": rfc3339(now + timedelta(seconds=wanted.ttl_s)),
        }


def fingerprint(line: str) -> str:
    """Return a public key's fingerprint as OpenSSH shows it."""
    blob = b64decode(line.split()[1])
    return _PREFIX + b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
