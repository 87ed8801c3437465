"""Secrets that callers present: made once, kept as digests, looked up in one indexed read.

A secret is 32 random bytes behind a prefix that people and secret scanners recognise. The prefix
decides nothing: what a credential is stands in its row.
"""

import base64
import hashlib
from collections.abc import Iterable
from typing import Final, Required, TypedDict, Unpack

from sqlalchemy import ColumnElement, and_, bindparam, func, insert, or_, select, update

from intramuros.control.identity import standing
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.store.db import Tx
from intramuros.control.store.prepared import Prepared
from intramuros.control.store.tables import credentials
from intramuros.kernel.errors import AuthenticationFailed, NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock, to_micros

SECRET_BYTES: Final = 32
# Longer than any secret of ours: what is longer is not worth hashing.
MAX_TOKEN_CHARS: Final = 512
# What a key's hint shows of its random part: too little to help a guesser. A secret that somebody
# else chose gets no hint, since it may have little to spare.
HINT_CHARS: Final = 4

# Environment keys and federated tokens keep the documented prefix (contract 2.1, contract-2 R339).
_FORMS: Final = {
    CredentialKind.API_KEY: ("apikey", "sk-intramuros-api01-"),
    CredentialKind.ENVIRONMENT_KEY: ("envkey", "sk-ant-oat01-"),
    CredentialKind.SESSIONS_TOKEN: ("sestok", "sk-intramuros-ses01-"),
    CredentialKind.POOL_KEY: ("poolkey", "sk-intramuros-pool01-"),
    CredentialKind.FEDERATED_TOKEN: ("fedtok", "sk-ant-oat01-"),
}


def digest(secret: str) -> str:
    """Return what is stored in place of a secret: its SHA-256, in hex.

    No salt and no stretching: 256 random bits cannot be guessed, and look-ups must be one read.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Grant(TypedDict, total=False):
    """What a new credential is for and what it may do."""

    kind: Required[CredentialKind | str]
    workspace_id: Required[str]
    name: Required[str]  # what people call it
    scopes: Iterable[str]  # what it may do (API keys)
    environment_id: str | None  # the one environment it reaches (environment keys, tokens)
    session_id: str | None  # the one session it reaches (sessions tokens)
    principal_id: str | None  # the service account or the user it acts as
    created_by: str | None  # the service account or the user who makes it
    work_id: str | None  # the work item it dies with (sessions tokens)
    expires_us: int | None  # when it stops working, microseconds since the epoch; None for never
    secret: str | None  # a secret made elsewhere (the operator's first key)


def mint(tx: Tx, ids: IdFactory, clock: Clock, **grant: Unpack[Grant]) -> tuple[str, str]:
    """Make a credential from the fields of :class:`Grant`.

    Returns:
        its id and its secret; the secret is not kept.
    """
    kind = CredentialKind(grant["kind"])
    id_prefix, secret_prefix = _FORMS[kind]
    secret, hint = grant.get("secret"), None
    if secret is None:
        entropy = base64.urlsafe_b64encode(ids.random(SECRET_BYTES)).rstrip(b"=").decode()
        secret = secret_prefix + entropy
        hint = f"{secret_prefix}...{secret[-HINT_CHARS:]}"
    credential_id = ids.new(id_prefix)
    tx.execute(
        insert(credentials).values(
            id=credential_id,
            kind=kind.value,
            digest=digest(secret),
            workspace_id=grant["workspace_id"],
            name=grant["name"],
            scopes=sorted(str(scope) for scope in grant.get("scopes", ())),
            environment_id=grant.get("environment_id"),
            session_id=grant.get("session_id"),
            work_id=grant.get("work_id"),
            created_us=to_micros(clock.now()),
            expires_us=grant.get("expires_us"),
            hint=hint,
            principal_id=grant.get("principal_id"),
            created_by=grant.get("created_by"),
        )
    )
    return credential_id, secret


def authenticate(tx: Tx, token: str, now_us: int) -> Principal:
    """Return whose token this is.

    Raises:
        AuthenticationFailed: unknown, expired or revoked; the message does not say which.
    """
    if not token or len(token) > MAX_TOKEN_CHARS:
        raise AuthenticationFailed(_REFUSAL)
    row = tx.run(_BY_DIGEST, {"digest": digest(token)}).first()
    if (
        row is None
        or row.disabled_us is not None
        or (row.revoked_us is not None and row.revoked_us <= now_us)
        or (row.expires_us is not None and row.expires_us <= now_us)
    ):
        raise AuthenticationFailed(_REFUSAL)
    scopes, restricted, person = frozenset(row.scopes), False, standing.is_user(row.principal_id)
    if person:
        allowed = standing.narrow(tx, row.principal_id, row.workspace_id, scopes)
        if allowed is None:
            raise AuthenticationFailed(_REFUSAL)
        scopes, restricted = allowed
    return Principal(
        kind=CredentialKind(row.kind),
        credential_id=row.id,
        workspace_id=row.workspace_id,
        scopes=scopes,
        environment_id=row.environment_id,
        session_id=row.session_id,
        work_id=row.work_id,
        service_account_id=None if person else row.principal_id,
        user_id=row.principal_id if person else None,
        restricted=restricted,
    )


def revoke(tx: Tx, credential_id: str, at_us: int) -> None:
    """Make a credential stop working at ``at_us``; an earlier revocation stands.

    Raises:
        NotFound: there is no such credential.
    """
    if tx.scalar(select(credentials.c.id).where(credentials.c.id == credential_id)) is None:
        raise NotFound(f"no credential {credential_id!r}")
    _revoke_where(tx, credentials.c.id == credential_id, at_us)


def revoke_work(tx: Tx, work_id: str, at_us: int) -> None:
    """Make a work item's tokens stop working at ``at_us``, which may lie ahead as a grace."""
    _revoke_where(tx, credentials.c.work_id == work_id, at_us)


def revoke_environment(tx: Tx, environment_id: str, at_us: int) -> None:
    """Make every key and token of an environment stop working at ``at_us``."""
    _revoke_where(tx, credentials.c.environment_id == environment_id, at_us)


def revoke_workspace(tx: Tx, workspace_id: str, at_us: int) -> None:
    """Make every credential of a workspace stop working at ``at_us`` (contract-2 R365)."""
    _revoke_where(tx, credentials.c.workspace_id == workspace_id, at_us)


def revoke_principal(tx: Tx, principal_id: str, at_us: int) -> None:
    """Make every credential that acts as a service account or a user stop working at ``at_us``."""
    _revoke_where(tx, credentials.c.principal_id == principal_id, at_us)


def revoke_sign_ins(tx: Tx, user_id: str, at_us: int) -> int:
    """Make whatever a user signed in with stop working at ``at_us``, and return how many it was.

    API keys stay.
    """
    which = and_(
        credentials.c.principal_id == user_id, credentials.c.kind != CredentialKind.API_KEY.value
    )
    live = and_(or_(credentials.c.revoked_us.is_(None), credentials.c.revoked_us > at_us), which)
    ended = tx.scalar(select(func.count()).select_from(credentials).where(live)) or 0
    _revoke_where(tx, which, at_us)
    return ended


def _revoke_where(tx: Tx, which: ColumnElement[bool], at_us: int) -> None:
    earlier = credentials.c.revoked_us
    tx.execute(
        update(credentials)
        .where(which, or_(earlier.is_(None), earlier > at_us))
        .values(revoked_us=at_us)
    )


_REFUSAL: Final = "invalid credential: send a key that exists and is neither expired nor revoked"
_BY_DIGEST: Final = Prepared(select(credentials).where(credentials.c.digest == bindparam("digest")))
