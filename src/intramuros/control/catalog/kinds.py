"""Every kind of configured resource, declared once."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Kind:
    """What the catalogue must know of a kind.

    Args:
        name: stored with each row and the first half of its audit records.
        prefix: of its ids (contract 4.1).
        noun: for messages.
        versioned: whether old versions are kept.
        max_page: the largest page of its list (contract 4.17); pages hold 20 unless asked.
        sort_field: the member of the body that its list can be sorted by, if any.
    """

    name: str
    prefix: str
    noun: str
    versioned: bool = False
    max_page: int = 100
    sort_field: str | None = None


DEFAULT_PAGE: Final = 20

AGENT: Final = Kind("agent", "agent", "agent", versioned=True)
ENVIRONMENT: Final = Kind("environment", "env", "environment")
DEPLOYMENT: Final = Kind("deployment", "depl", "deployment")
TUNNEL: Final = Kind("tunnel", "tnl", "tunnel", max_page=1000)
CERTIFICATE: Final = Kind("tunnel_certificate", "tcrt", "certificate", max_page=1000)
MEMORY_STORE: Final = Kind("memory_store", "memstore", "memory store")
FILE: Final = Kind("file", "file", "file", max_page=1000)
SKILL: Final = Kind("skill", "skill", "skill", max_page=1000)
SKILL_VERSION: Final = Kind("skill_version", "skver", "skill version", max_page=1000)
USER_PROFILE: Final = Kind("user_profile", "uprof", "user profile", sort_field="name")
VAULT: Final = Kind("vault", "vlt", "vault")
VAULT_CREDENTIAL: Final = Kind("vault_credential", "vcrd", "credential")
# These belong to the organization: they are kept in the default workspace.
SERVICE_ACCOUNT: Final = Kind("service_account", "svac", "service account")
ISSUER: Final = Kind("federation_issuer", "fdis", "federation issuer")
RULE: Final = Kind("federation_rule", "fdrl", "federation rule")
