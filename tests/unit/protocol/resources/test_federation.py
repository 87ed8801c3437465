import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.federation import (
    IssuerCreate,
    IssuerUpdate,
    RuleUpdate,
    ServiceAccountCreate,
)


def test_R359_names_are_slugs() -> None:
    assert ServiceAccountCreate(name="a-1").organization_role == "developer"
    for bad in ("", "A", "a_b", "a" * 256, "a\n"):
        with pytest.raises(ValidationError):
            ServiceAccountCreate(name=bad)


def test_R347_R354_lifetimes_are_bounded() -> None:
    for bad in (0, 176_401):
        with pytest.raises(ValidationError):
            IssuerCreate(name="a", issuer_url="https://i", max_jwt_lifetime_seconds=bad)
    for bad in (59, 86_401):
        with pytest.raises(ValidationError):
            RuleUpdate(token_lifetime_seconds=bad)


def test_R357_scopes_are_known_ones_each_once() -> None:
    wanted = "workspace:inference workspace:developer  workspace:inference"
    assert RuleUpdate(oauth_scope=wanted).oauth_scope == "workspace:developer workspace:inference"
    for bad in ("", " ", "workspace:developer root"):
        with pytest.raises(ValidationError):
            RuleUpdate(oauth_scope=bad)


def test_polling_is_only_ever_switched_on() -> None:
    assert IssuerUpdate(jwks_polling_disabled=False).jwks_polling_disabled is False
    with pytest.raises(ValidationError):
        IssuerUpdate.model_validate({"jwks_polling_disabled": True})
