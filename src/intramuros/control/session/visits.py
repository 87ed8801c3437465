"""Certificates with which people enter a session's sandbox, at workers that trust this server.

Each is audited in the transaction that makes it, before anybody has it. It names one session and
whoever asked, is good for minutes, and no longer than the credential that asked. It is remembered
(``identity/ssh_certificates.py``), so that it can be taken back: by somebody's word, with the
credential, with the person, with their role, with the session. Workers ask what was.
"""

import hashlib
from base64 import b64decode, b64encode
from datetime import timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from sqlalchemy import Row

from intramuros.control.identity import audit, ssh_certificates
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.identity.ssh_certificates import Issued
from intramuros.control.session.sessions import Sessions
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import Conflict, InvalidRequest, NotFound, OperatorError
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock, micros_rfc3339, rfc3339, to_micros
from intramuros.protocol.resources.ssh import SshCertificateRequest, SshRevokeRequest
from intramuros.protocol.ssh import Permit, certify, public_line, read_public_key
from intramuros.protocol.ssh_revocations import Revocations

Shown = dict[str, Any]
# As `ssh-keygen -l` shows keys.
_PREFIX: Final = "SHA256:"
# Of a session's, the newest.
MAX_SHOWN: Final = 100


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
        self._fingerprint = fingerprint(self.public_line)

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
            RateLimited: too many were made in its environment.
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
        ttl_s = self._lifetime_s(tx, principal, wanted.ttl_s)
        serial = int.from_bytes(self._ids.random(8), "big") >> 1
        key_id = f"{who} by {principal.credential_id} at {rfc3339(now)}"
        expires = now + timedelta(seconds=ttl_s)
        held = fingerprint(public_line(key))
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
                "key": held,
                "ttl_s": ttl_s,
            },
        )
        issued = Issued(serial, key_id, held, to_micros(expires))
        ssh_certificates.keep(tx, self._clock, principal, row, issued)
        permit = Permit(session_id, key_id, ttl_s, revocable=True)
        made = certify(self._key, key, permit, serial, now.timestamp())
        return {
            "type": "ssh_certificate",
            "session_id": session_id,
            "certificate": made.decode(),
            "serial": str(serial),
            "key_id": key_id,
            "expires_at": rfc3339(expires),
        }

    def find(self, tx: Tx, principal: Principal, session_id: str) -> list[Shown]:
        """Return the certificates by which somebody may be in a session, the newest first.

        Raises:
            NotFound: no such session for this caller.
        """
        self._sessions.get(tx, principal, session_id)
        return [_shown(row) for row in ssh_certificates.of_session(tx, session_id, MAX_SHOWN)]

    def revoke(
        self, tx: Tx, principal: Principal, session_id: str, wanted: SshRevokeRequest
    ) -> list[Shown]:
        """Take back certificates of a session, and return all of it, the newest first.

        What is revoked already stays as it is.

        Raises:
            NotFound: no such session for this caller, or no such certificate of it.
        """
        self._sessions.get(tx, principal, session_id)
        serial = None if wanted.serial is None else int(wanted.serial)
        if serial is not None and (
            serial >> 63 or ssh_certificates.find(tx, session_id, serial) is None
        ):
            raise NotFound(f"no certificate {serial} of {session_id}, or it is long over")
        ssh_certificates.withdraw(tx, self._clock, principal, session_id, serial)
        return self.find(tx, principal, session_id)

    def revocations(self, tx: Tx, principal: Principal) -> Revocations:
        """Return what was revoked where a worker's key lets it work.

        With an environment key those of that environment, with a pool key of all cloud ones.
        """
        pool = principal.kind is CredentialKind.POOL_KEY
        where = None if pool else principal.environment_id or ""
        return Revocations(self._fingerprint, ssh_certificates.revoked(tx, where))

    def _lifetime_s(self, tx: Tx, principal: Principal, wanted_s: int) -> int:
        """Return for how long a certificate is good: no longer than the credential."""
        ends_us = ssh_certificates.ends_us(tx, principal)
        if ends_us is None:
            return wanted_s
        left_s = (ends_us - to_micros(self._clock.now())) // 1_000_000
        return max(1, min(wanted_s, left_s))


def fingerprint(line: str) -> str:
    """Return a public key's fingerprint as OpenSSH shows it."""
    blob = b64decode(line.split()[1])
    return _PREFIX + b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _shown(row: Row[Any]) -> Shown:
    revoked_us = row.revoked_us
    return {
        "type": "ssh_certificate",
        "session_id": row.session_id,
        "serial": str(row.serial),
        "key_id": row.key_id,
        "key": row.key,
        "created_at": micros_rfc3339(row.created_us),
        "expires_at": micros_rfc3339(row.expires_us),
        "revoked_at": None if revoked_us is None else micros_rfc3339(revoked_us),
        "revoked_why": row.revoked_why,
    }
