"""Service accounts, federation issuers and rules, the token exchange (contract-2 section 19)."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints

from intramuros.protocol.resources.base import JsonObject, Request, Response, Timestamp

MAX_ASSERTION_BYTES: Final = 16 * 1024
MAX_KEYS: Final = 100
MAX_CLAIMS: Final = 32
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPES: Final = frozenset(
    {"workspace:developer", "workspace:inference", "workspace:manage_tunnels", "org:admin"}
)

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,255}$")]
Text = Annotated[str, StringConstraints(max_length=2048)]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
Pem = Annotated[str, StringConstraints(min_length=1, max_length=64 * 1024)]
Lifetime = Annotated[int, Field(ge=60, le=86_400)]
JwtLifetime = Annotated[int, Field(ge=1, le=176_400)]
OrganizationRole = Literal["admin", "developer"]
MemberRole = Literal[
    "workspace_admin", "workspace_developer", "workspace_restricted_developer", "workspace_user"
]


def check_scopes(text: str) -> str:
    """Return scopes, sorted, each once.

    Raises:
        ValueError: none, or one that there is not.
    """
    wanted = set(text.split())
    if not wanted or wanted - SCOPES:
        raise ValueError(f"expected scopes out of {', '.join(sorted(SCOPES))}")
    return " ".join(sorted(wanted))


OAuthScope = Annotated[str, StringConstraints(max_length=512), AfterValidator(check_scopes)]


class ServiceAccountCreate(Request):
    """``POST /v1/organizations/service_accounts``."""

    name: Slug
    description: Text | None = None
    organization_role: OrganizationRole = "developer"


class ServiceAccountUpdate(Request):
    """What is not sent stays; a null description is emptied."""

    description: Text | None = None
    organization_role: OrganizationRole | None = None


class MemberOf(Request):
    """Adds a service account to a workspace, seen from the account."""

    workspace_id: str
    workspace_role: MemberRole


class MemberAdd(Request):
    """Adds a service account to a workspace, seen from the workspace."""

    service_account_id: str
    workspace_role: MemberRole


class MemberUpdate(Request):
    """Changes a service account's role in a workspace."""

    workspace_role: MemberRole


class Discovery(Request):
    """Keys through the issuer's discovery document."""

    type: Literal["discovery"]
    ca_cert_pem: Pem | None = None
    discovery_base: Url | None = None


class ExplicitUrl(Request):
    """Keys from one address."""

    type: Literal["explicit_url"]
    url: Url
    ca_cert_pem: Pem | None = None


class Inline(Request):
    """Keys as they are."""

    type: Literal["inline"]
    keys: Annotated[list[JsonObject], Field(min_length=1, max_length=MAX_KEYS)]


Jwks = Annotated[Discovery | ExplicitUrl | Inline, Field(discriminator="type")]


class IssuerCreate(Request):
    """``POST /v1/organizations/federation_issuers``."""

    name: Slug
    issuer_url: Url
    check_jti: bool | None = None
    jwks: Jwks = Discovery(type="discovery")
    max_jwt_lifetime_seconds: JwtLifetime | None = None


class IssuerUpdate(Request):
    """What is not sent, or null, stays."""

    name: Slug | None = None
    issuer_url: Url | None = None
    check_jti: bool | None = None
    jwks: Jwks | None = None
    jwks_polling_disabled: Literal[False] | None = None
    max_jwt_lifetime_seconds: JwtLifetime | None = None


class Match(Request):
    """What an assertion must say; everything given must hold."""

    audience: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = None
    claims: Annotated[dict[str, str], Field(max_length=MAX_CLAIMS)] | None = None
    condition: Text | None = None
    subject_prefix: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = None


class Target(Request):
    """Whom a rule's tokens act as; the name is not read."""

    type: Literal["service_account"]
    service_account_id: str
    service_account_name: str | None = None


class RuleCreate(Request):
    """``POST /v1/organizations/federation_rules``."""

    name: Slug
    issuer_id: str
    match: Match
    oauth_scope: OAuthScope
    target: Target
    applies_to_all_workspaces: bool = False
    attributes: dict[str, str] | None = None
    description: Text | None = None
    token_lifetime_seconds: Lifetime = 3600
    workspace_id: str | None = None


class RuleUpdate(Request):
    """What is not sent, or null, stays; a null description is emptied."""

    name: Slug | None = None
    match: Match | None = None
    oauth_scope: OAuthScope | None = None
    target: Target | None = None
    applies_to_all_workspaces: bool | None = None
    attributes: dict[str, str] | None = None
    description: Text | None = None
    token_lifetime_seconds: Lifetime | None = None
    workspace_id: str | None = None


class RuleWorkspaceAdd(Request):
    """Enables a rule for one more workspace."""

    workspace_id: str


class TokenRequest(Request):
    """``POST /v1/oauth/token`` (contract-2 R337)."""

    grant_type: Literal["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    assertion: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ASSERTION_BYTES)]
    federation_rule_id: Annotated[str, StringConstraints(pattern=r"^fdrl_[0-9A-Za-z]{1,64}$")]
    organization_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    service_account_id: (
        Annotated[str, StringConstraints(pattern=r"^svac_[0-9A-Za-z]{1,64}$")] | None
    ) = None
    workspace_id: (
        Annotated[str, StringConstraints(pattern=r"^(wrkspc_[0-9A-Za-z]{1,64}|default)$")] | None
    ) = None


class Changed(Response):
    """When and by whom something was made, changed and archived."""

    created_at: Timestamp
    updated_at: Timestamp
    archived_at: Timestamp | None
    created_by_actor_id: str | None
    updated_by_actor_id: str | None
    archived_by_actor_id: str | None


class ServiceAccount(Changed):
    """A service account."""

    id: str
    type: Literal["service_account"]
    name: str
    description: str | None
    organization_role: OrganizationRole


class Issuer(Changed):
    """A federation issuer."""

    id: str
    type: Literal["federation_issuer"]
    name: str
    issuer_url: str
    check_jti: bool
    jwks: dict[str, Any]
    jwks_polling_disabled_at: None
    max_jwt_lifetime_seconds: int
    poll_status: dict[str, Any] | None


class Rule(Changed):
    """A federation rule."""

    id: str
    type: Literal["federation_rule"]
    name: str
    description: str | None
    issuer_id: str
    issuer_name: str | None
    match: dict[str, Any]
    attributes: None
    oauth_scope: str
    target: dict[str, Any]
    token_lifetime_seconds: int
    applies_to_all_workspaces: bool
    workspace_id: str | None
    workspace_ids: list[str]
