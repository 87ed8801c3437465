"""Federation issuers: whose assertions the organization believes, and how keys are had."""

import ssl
from collections.abc import Callable
from typing import Any

from sqlalchemy import select

from intramuros.control.catalog import named
from intramuros.control.catalog.assertions import Refused, import_key
from intramuros.control.catalog.claims import pins_tenant
from intramuros.control.catalog.kinds import ISSUER, RULE
from intramuros.control.catalog.service import Resource
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import resources
from intramuros.kernel.errors import InvalidRequest, PermissionDenied
from intramuros.protocol.resources.federation import (
    Discovery,
    Inline,
    IssuerCreate,
    IssuerUpdate,
    Jwks,
)

CheckUrl = Callable[[str], str | None]
PLAIN_SCOPES = frozenset({"workspace:developer", "workspace:inference"})


def create(tx: Tx, actor: Actor, request: IssuerCreate, check_url: CheckUrl) -> Resource:
    """Store a new issuer.

    Args:
        check_url: tells why an address would never be dialed.

    Raises:
        InvalidRequest: an address or a key is unfit.
        Conflict: the name is taken.
    """
    body = {
        "name": request.name,
        "issuer_url": request.issuer_url,
        "check_jti": request.check_jti is not False,
        "jwks": _jwks(request.jwks),
        "max_jwt_lifetime_seconds": request.max_jwt_lifetime_seconds or 3600,
    }
    _check(request.issuer_url, request.jwks, check_url)
    return named.create(tx, actor, ISSUER, body)


def update(
    tx: Tx, actor: Actor, issuer_id: str, request: IssuerUpdate, check_url: CheckUrl
) -> Resource:
    """Change an issuer; what was not sent stays.

    Raises:
        NotFound: no such issuer.
        InvalidRequest: archived, or an address, a key or a rule does not go with the change.
        Conflict: the new name is taken.
        PermissionDenied: a federated caller, and the issuer backs rules it may not manage (R357).
    """
    current = named.get(tx, ISSUER, issuer_id)
    live = _live_rules(tx, issuer_id)
    if actor.service_account_id is not None:
        for rule in live:
            check_manages(actor, rule.body["oauth_scope"])
    sent = {
        name: value
        for name in ("name", "issuer_url", "check_jti", "max_jwt_lifetime_seconds")
        if (value := getattr(request, name)) is not None
    }
    if request.jwks is not None:
        sent["jwks"] = _jwks(request.jwks)
    url = request.issuer_url or current.body["issuer_url"]
    jwks = request.jwks
    if jwks is None and current.body["jwks"]["type"] == "discovery":
        jwks = Discovery.model_validate(current.body["jwks"])
    if jwks is not None:
        _check(url, jwks, check_url)
    loose = [rule.id for rule in live if not pins_tenant(url, rule.body["match"])]
    if loose:
        raise InvalidRequest(f"issuer_url: rule {loose[0]!r} would let in every tenant of it")
    return named.change(tx, actor, ISSUER, current, sent)


def archive(tx: Tx, actor: Actor, issuer_id: str) -> Resource:
    """Archive an issuer.

    Raises:
        NotFound: no such issuer.
        InvalidRequest: a live rule refers to it (contract-2 R360).
    """
    current = named.get(tx, ISSUER, issuer_id)
    live = _live_rules(tx, issuer_id)
    if live:
        raise InvalidRequest(
            f"federation rule {live[0].id!r} refers to this issuer: archive the rule first"
        )
    return named.archive(tx, actor, ISSUER, current)


def check_manages(actor: Actor, oauth_scope: str) -> None:
    """Refuse a federated caller that gives out, or changes who gets, wider scopes (R357).

    Raises:
        PermissionDenied: it takes an API key.
    """
    if actor.service_account_id is not None and set(oauth_scope.split()) - PLAIN_SCOPES:
        raise PermissionDenied(
            f"a federated token gives out only {' and '.join(sorted(PLAIN_SCOPES))}: use an API key"
        )


def present(found: Resource, poll_status: dict[str, Any] | None) -> dict[str, Any]:
    """Return an issuer as the API shows it."""
    body = found.body
    return {
        "id": found.id,
        "type": "federation_issuer",
        "name": body["name"],
        "issuer_url": body["issuer_url"],
        "check_jti": body["check_jti"],
        "jwks": body["jwks"],
        "jwks_polling_disabled_at": None,
        "max_jwt_lifetime_seconds": body["max_jwt_lifetime_seconds"],
        "poll_status": poll_status,
        **named.stamps(found),
    }


def _live_rules(tx: Tx, issuer_id: str) -> list[Resource]:
    ids = tx.execute(
        select(resources.c.id).where(
            resources.c.kind == RULE.name,
            resources.c.parent_id == issuer_id,
            resources.c.archived_us.is_(None),
        )
    ).scalars()
    return [named.get(tx, RULE, rule_id) for rule_id in ids]


def _jwks(jwks: Jwks) -> dict[str, Any]:
    return jwks.model_dump()


def _check(issuer_url: str, jwks: Jwks, check_url: CheckUrl) -> None:
    if isinstance(jwks, Inline):
        _check_keys(jwks)
        return
    if isinstance(jwks, Discovery):
        name = "issuer_url" if jwks.discovery_base is None else "jwks.discovery_base"
        url = jwks.discovery_base or issuer_url
    else:
        name, url = "jwks.url", jwks.url
    wrong = check_url(url)
    if wrong is not None:
        raise InvalidRequest(f"{name}: {wrong}")
    if jwks.ca_cert_pem is not None:
        try:
            ssl.create_default_context(cadata=jwks.ca_cert_pem)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidRequest("jwks.ca_cert_pem: no certificate in PEM") from error


def _check_keys(jwks: Inline) -> None:
    for index, key in enumerate(jwks.keys):
        if not isinstance(key.get("kid"), str):
            raise InvalidRequest(f"jwks.keys[{index}]: no kid, by which it would be found")
        try:
            import_key(key)
        except Refused as error:
            raise InvalidRequest(
                f"jwks.keys[{index}]: not a public RSA or EC key to verify with ({error.reason})"
            ) from error
