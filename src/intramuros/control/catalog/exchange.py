"""The exchange of a foreign issuer's assertion for a token of ours (RFC 7523, contract-2 R337).

Whoever asks is told that it did not work, never why; the reason stands in the audit log.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, insert, select

from intramuros.control.catalog import members, named, workspaces
from intramuros.control.catalog.assertions import Refused, peek, verify
from intramuros.control.catalog.claims import LEEWAY_S, check_match, check_times
from intramuros.control.catalog.issuer_keys import IssuerKeys
from intramuros.control.catalog.kinds import ISSUER, RULE, SERVICE_ACCOUNT
from intramuros.control.catalog.service import Resource
from intramuros.control.identity import audit, credentials
from intramuros.control.identity.bootstrap import default_workspace
from intramuros.control.identity.principal import CredentialKind, Scope
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.tables import spent_assertions
from intramuros.kernel.errors import AuthenticationFailed, InvalidRequest, NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock, to_micros
from intramuros.protocol.resources.federation import TokenRequest

FAILED: Final = "Authentication failed"
MIN_LIFETIME_S: Final = 60
MAX_JTI_CHARS: Final = 1024
# What is kept of names that others chose.
MAX_RULE_CHARS: Final = 80
MAX_SUBJECT_CHARS: Final = 512
MAX_AUDIENCES: Final = 10
_MICROS: Final = 1_000_000

Slow = Callable[[], None]


@dataclass(frozen=True)
class Parties:
    """Whom an exchange is between."""

    rule: Resource
    issuer: Resource
    account: Resource


@dataclass(frozen=True)
class Exchange:
    """Makes tokens.

    Args:
        audiences: what an assertion may be made out for when a rule names none (contract-2 Q33).
    """

    db: Database
    clock: Clock
    ids: IdFactory
    keys: IssuerKeys
    organization_id: str
    audiences: Collection[str]

    async def run(self, request: TokenRequest, refused: Slow) -> dict[str, Any]:
        """Return the answer that carries a token.

        Args:
            refused: called before a refusal is recorded; may raise instead (throttling).

        Raises:
            AuthenticationFailed: always in the same words (contract-2 R341).
        """
        try:
            parties = await self.db.read(lambda tx: _parties(tx, request))
        except NotFound:
            refused()
            await self.db.write(lambda tx: self._note_stranger(tx, request))
            raise AuthenticationFailed(FAILED) from None
        try:
            claims = await self._verify(request, parties.issuer)
            version = parties.issuer.version
            return await self.db.write(lambda tx: self._grant(tx, request, claims, version))
        except (Refused, NotFound) as error:
            reason = error.reason if isinstance(error, Refused) else "gone"
            refused()
            await self.db.write(lambda tx: self._record(tx, parties, {"refused": reason}))
            raise AuthenticationFailed(FAILED) from None

    async def _verify(self, request: TokenRequest, issuer: Resource) -> Mapping[str, Any]:
        said = peek(request.assertion)
        if said.issuer != issuer.body["issuer_url"]:
            raise Refused("issuer")
        if issuer.archived_us is not None:
            raise Refused("issuer_archived")
        key = await self.keys.find(issuer, said.kid)
        claims = verify(request.assertion, key, said.algorithm)
        if claims.get("iss") != issuer.body["issuer_url"]:
            raise Refused("issuer")
        return claims

    def _grant(
        self, tx: Tx, request: TokenRequest, claims: Mapping[str, Any], version: int
    ) -> dict[str, Any]:
        """Judge the verified claims by what is configured now, and make the token.

        Args:
            version: the issuer's, whose keys vouched for the claims; another may have other keys.
        """
        now_s = self.clock.now().timestamp()
        parties = _parties(tx, request)
        if parties.issuer.version != version:
            raise Refused("issuer_changed")
        self._judge(request, parties, claims, now_s)
        workspace_id = _workspace(tx, request, parties)
        if parties.issuer.body["check_jti"]:
            _spend(tx, parties.issuer.id, claims, now_s)
        rule = parties.rule.body
        left_s = 2 * (float(claims["exp"]) - now_s)
        lifetime_s = int(max(MIN_LIFETIME_S, min(rule["token_lifetime_seconds"], left_s)))
        token_id, secret = credentials.mint(
            tx,
            self.ids,
            self.clock,
            kind=CredentialKind.FEDERATED_TOKEN,
            workspace_id=workspace_id,
            name=parties.account.body["name"],
            scopes=rule["oauth_scope"].split(),
            principal_id=parties.account.id,
            expires_us=to_micros(self.clock.now()) + lifetime_s * _MICROS,
        )
        subject = hashlib.sha256(str(claims["sub"]).encode("utf-8", "surrogatepass")).hexdigest()
        fields = {
            "id": token_id,
            "subject": _text(claims["sub"]),
            "subject_digest": subject,
            "audience": _audience(claims),
            "scopes": rule["oauth_scope"].split(),
        }
        self._record(tx, parties, fields, workspace_id)
        return {
            "access_token": secret,
            "token_type": "Bearer",
            "expires_in": lifetime_s,
            "scope": rule["oauth_scope"],
        }

    def _judge(
        self, request: TokenRequest, parties: Parties, claims: Mapping[str, Any], now_s: float
    ) -> None:
        rule, issuer, account = parties.rule, parties.issuer, parties.account
        is_admin = account.body["organization_role"] == "admin"
        checks = (
            (request.organization_id != self.organization_id, "organization"),
            (rule.archived_us is not None, "rule_archived"),
            (issuer.archived_us is not None, "issuer_archived"),
            (claims.get("iss") != issuer.body["issuer_url"], "issuer"),
            (account.archived_us is not None, "service_account_archived"),
            (request.service_account_id not in (None, account.id), "service_account"),
            (Scope.ORG_ADMIN in rule.body["oauth_scope"].split() and not is_admin, "role"),
        )
        for wrong, reason in checks:
            if wrong:
                raise Refused(reason)
        wrong_time = check_times(claims, issuer.body["max_jwt_lifetime_seconds"], now_s)
        wrong_claim = check_match(claims, rule.body["match"], self.audiences)
        if wrong_time or wrong_claim:
            raise Refused(wrong_time or wrong_claim or "")

    def _note_stranger(self, tx: Tx, request: TokenRequest) -> None:
        """Record an exchange that names no rule of ours."""
        fields = {"refused": "no_rule", "rule": request.federation_rule_id[:MAX_RULE_CHARS]}
        audit.record(tx, self.clock, "federation.exchange", workspace_id=None, fields=fields)

    def _record(
        self,
        tx: Tx,
        parties: Parties,
        fields: Mapping[str, object],
        workspace_id: str | None = None,
    ) -> None:
        named_parties = {
            "rule": parties.rule.id,
            "issuer": parties.issuer.id,
            "service_account": parties.account.id,
        }
        audit.record(
            tx,
            self.clock,
            "federation.exchange",
            workspace_id=workspace_id,
            fields={**named_parties, **fields},
        )


def _audience(claims: Mapping[str, Any]) -> list[str]:
    said = claims.get("aud", [])
    listed = said if isinstance(said, list) else [said]
    return [_text(one) for one in listed[:MAX_AUDIENCES]]


def _text(value: object) -> str:
    """Return a claim as text of bounded length that any reader can decode."""
    return str(value)[:MAX_SUBJECT_CHARS].encode("utf-8", "replace").decode()


def _parties(tx: Tx, request: TokenRequest) -> Parties:
    rule = named.get(tx, RULE, request.federation_rule_id)
    issuer = named.get(tx, ISSUER, rule.parent_id or "")
    account_id = rule.body["target"]["service_account_id"]
    return Parties(rule, issuer, named.get(tx, SERVICE_ACCOUNT, account_id))


def _workspace(tx: Tx, request: TokenRequest, parties: Parties) -> str:
    """Return the workspace that the token is for (contract-2 R337, R355)."""
    home = default_workspace(tx)
    everywhere = parties.rule.body["applies_to_all_workspaces"]
    enabled = [m.workspace_id for m in members.of_member(tx, RULE, parties.rule.id)]
    wanted = home if request.workspace_id == "default" else request.workspace_id
    if wanted is None:
        if everywhere or (len(enabled) > 1 and home in enabled):
            wanted = home
        elif len(enabled) == 1:
            wanted = enabled[0]
        else:
            raise Refused("workspace_id_required")
    if not everywhere and wanted not in enabled:
        raise Refused("workspace")
    try:
        workspaces.active_row(tx, wanted)
        members.get(tx, wanted, SERVICE_ACCOUNT, parties.account.id)
    except (InvalidRequest, NotFound) as error:
        raise Refused("workspace") from error
    return wanted


def _spend(tx: Tx, issuer_id: str, claims: Mapping[str, Any], now_s: float) -> None:
    """Refuse an assertion that was exchanged before (contract-2 R349).

    What expired is forgotten: it is refused for its age.
    """
    jti = claims.get("jti")
    if jti is None:
        return
    if not isinstance(jti, str) or len(jti) > MAX_JTI_CHARS:
        raise Refused("jti")
    digest = hashlib.sha256(jti.encode("utf-8", "surrogatepass")).hexdigest()
    table = spent_assertions
    tx.execute(delete(table).where(table.c.expires_us < int(now_s * _MICROS)))
    seen = select(table.c.jti_digest).where(
        table.c.issuer_id == issuer_id, table.c.jti_digest == digest
    )
    if tx.scalar(seen) is not None:
        raise Refused("jti_spent")
    expires_us = int((float(claims["exp"]) + 2 * LEEWAY_S) * _MICROS)
    tx.execute(insert(table).values(issuer_id=issuer_id, jti_digest=digest, expires_us=expires_us))
