"""Commands without an API key: an identity provider's token is exchanged for a short-lived one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intramuros.cli.api import read_key
from intramuros.kernel.config import load
from intramuros.kernel.errors import OperatorError

if TYPE_CHECKING:
    from anthropic.lib.credentials import WorkloadIdentityCredentials

RuleOption = Annotated[
    str | None,
    typer.Option(
        "--federation-rule-id",
        help="Exchange an identity token under this rule instead of using an API key.",
    ),
]
OrganizationOption = Annotated[
    str | None, typer.Option("--organization-id", help="The rule's organization.")
]
WorkspaceOption = Annotated[
    str | None,
    typer.Option("--workspace-id", help="Which workspace, if the rule covers several."),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--identity-token-file",
        help="File with the identity token (else env INTRAMUROS_IDENTITY_TOKEN).",
    ),
]


@dataclass(frozen=True)
class WorkloadSettings:
    """Who a workload says it is (contract-2 R333)."""

    federation_rule_id: str | None = field(
        default=None,
        metadata={"env": ("INTRAMUROS_FEDERATION_RULE_ID", "ANTHROPIC_FEDERATION_RULE_ID")},
    )
    """The rule to exchange under."""
    organization_id: str | None = field(
        default=None, metadata={"env": ("INTRAMUROS_ORGANIZATION_ID", "ANTHROPIC_ORGANIZATION_ID")}
    )
    """The organization of the rule."""
    workspace_id: str | None = field(
        default=None, metadata={"env": ("INTRAMUROS_WORKSPACE_ID", "ANTHROPIC_WORKSPACE_ID")}
    )
    """The workspace, where the rule covers several."""
    identity_token: str | None = field(
        default=None,
        repr=False,
        metadata={"env": ("INTRAMUROS_IDENTITY_TOKEN", "ANTHROPIC_IDENTITY_TOKEN")},
    )
    """The identity provider's token itself; never on the command line."""
    identity_token_file: Path | None = field(
        default=None,
        metadata={"env": ("INTRAMUROS_IDENTITY_TOKEN_FILE", "ANTHROPIC_IDENTITY_TOKEN_FILE")},
    )
    """A file with it, read anew for each exchange."""


def credentials_of(
    rule_id: str | None,
    organization_id: str | None,
    workspace_id: str | None,
    token_file: Path | None,
) -> "WorkloadIdentityCredentials | None":
    """Return what exchanges identity tokens, or None when no rule is named.

    Args:
        rule_id: from the command line, like the others; what is None comes from the environment.
        organization_id: of the rule.
        workspace_id: which one, if the rule covers several.
        token_file: where the identity provider leaves its token.

    Raises:
        OperatorError: a rule without an organization, or without exactly one identity token.
    """
    flags = {
        "federation_rule_id": rule_id,
        "organization_id": organization_id,
        "workspace_id": workspace_id,
        "identity_token_file": token_file,
    }
    settings = load(WorkloadSettings, flags=flags).settings
    if settings.federation_rule_id is None:
        return None
    if settings.organization_id is None:
        raise OperatorError("the rule's organization is missing", "pass --organization-id")
    token, file = settings.identity_token, settings.identity_token_file
    if (token is None) == (file is None):
        raise OperatorError(
            "exactly one identity token is needed",
            "pass --identity-token-file, or set INTRAMUROS_IDENTITY_TOKEN, not both",
        )
    from anthropic.lib.credentials import WorkloadIdentityCredentials

    return WorkloadIdentityCredentials(
        identity_token_provider=lambda: read_key(file) if file is not None else token or "",
        federation_rule_id=settings.federation_rule_id,
        organization_id=settings.organization_id,
        workspace_id=settings.workspace_id,
    )
