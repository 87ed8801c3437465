"""What federation tests start from: an issuer, a service account and a rule."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import httpx2
from anthropic import Anthropic
from anthropic.lib.credentials import WorkloadIdentityCredentials

from tests.wire.host import Server
from tests.wire.provider import Provider

SUBJECT = "system:serviceaccount:jobs:runner"
_NUMBERS = itertools.count()


@dataclass
class Trust:
    """One issuer, service account and rule, and exchanges through them."""

    client: Anthropic
    server: Server
    provider: Provider
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        org = self.client.beta.organization
        self.organization_id = org.retrieve().id
        self.number = next(_NUMBERS)
        self.issuer = org.federation.issuers.create(
            name=f"issuer-{self.number}",
            issuer_url=self.provider.url,
            jwks={"type": "discovery", "ca_cert_pem": self.provider.ca_pem},
            **self.settings.get("issuer", {}),
        )
        self.account = org.service_accounts.create(
            name=f"runner-{self.number}", **self.settings.get("account", {})
        )
        rule: dict[str, Any] = {
            "name": f"rule-{self.number}",
            "issuer_id": self.issuer.id,
            "match": {"subject_prefix": SUBJECT},
            "oauth_scope": "workspace:developer",
            "target": {"type": "service_account", "service_account_id": self.account.id},
            "workspace_id": default_workspace(self.client),
            **self.settings.get("rule", {}),
        }
        self.rule = org.federation.rules.create(**rule)

    def credentials(self, assertion: str, **more: Any) -> WorkloadIdentityCredentials:
        return WorkloadIdentityCredentials(
            identity_token_provider=lambda: assertion,
            federation_rule_id=self.rule.id,
            organization_id=self.organization_id,
            http_client=self.provider.http,
            **more,
        )

    def as_workload(self, assertion: str, **more: Any) -> Anthropic:
        return Anthropic(
            base_url=self.server.base_url,
            credentials=self.credentials(assertion, **more),
            max_retries=0,
        )

    def post(self, assertion: str, /, **more: Any) -> httpx2.Response:
        body = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": assertion,
            "federation_rule_id": self.rule.id,
            "organization_id": self.organization_id,
            **more,
        }
        return self.provider.http.post(f"{self.server.base_url}/v1/oauth/token", json=body)


def default_workspace(client: Anthropic) -> str:
    """Return the oldest one."""
    return list(client.beta.organization.workspaces.list(include_default=True))[-1].id
