from typing import Any, get_args, get_type_hints

import pytest
from anthropic.types.beta.organization import WebhookCreateParams
from pydantic import ValidationError

from intramuros.protocol.resources.webhooks import (
    OrganizationEndpointCreate,
    OrganizationEndpointUpdate,
    WorkspaceEndpointCreate,
    WorkspaceEndpointUpdate,
)
from intramuros.protocol.webhooks import ORGANIZATION_KINDS, WORKSPACE_KINDS

URL = "https://hooks.example/"


def test_R250_the_organization_hears_of_its_own_kinds_only() -> None:
    hint = get_type_hints(WebhookCreateParams)["enabled_events"]
    assert set(get_args(get_args(hint)[0])) == ORGANIZATION_KINDS
    kinds: Any = sorted(ORGANIZATION_KINDS)
    assert OrganizationEndpointCreate(url=URL, enabled_events=kinds).enabled_events == kinds
    for kind in sorted(WORKSPACE_KINDS):
        for model in (OrganizationEndpointCreate, OrganizationEndpointUpdate):
            with pytest.raises(ValidationError):
                model.model_validate({"url": URL, "enabled_events": [kind]})


def test_R262_workspaces_hear_of_the_rest_older_names_included() -> None:
    kinds: Any = sorted(WORKSPACE_KINDS)
    assert "session.requires_action" in kinds
    for model in (WorkspaceEndpointCreate, WorkspaceEndpointUpdate):
        assert model.model_validate({"url": URL, "enabled_events": kinds})
        for kind in sorted(ORGANIZATION_KINDS):
            with pytest.raises(ValidationError):
                model.model_validate({"url": URL, "enabled_events": [kind]})


@pytest.mark.parametrize(
    "body",
    [
        {"url": URL},
        {"url": URL, "enabled_events": []},
        {"enabled_events": ["vault.created"]},
        {"url": URL, "enabled_events": ["vault.updated"]},
        {"url": URL, "enabled_events": ["vault.created"], "name": None},
        {"url": URL, "enabled_events": ["vault.created"], "state": "disabled"},
        {"url": URL, "enabled_events": ["vault.created"], "extra": 1},
        {"url": "x" * 2049, "enabled_events": ["vault.created"]},
    ],
)
def test_what_no_endpoint_can_be_made_of(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WorkspaceEndpointCreate.model_validate(body)


@pytest.mark.parametrize("name", ["url", "state", "name", "description", "enabled_events"])
def test_R253_an_update_says_what_was_sent_and_takes_no_null(name: str) -> None:
    assert WorkspaceEndpointUpdate.model_validate({}).model_fields_set == set()
    with pytest.raises(ValidationError):
        WorkspaceEndpointUpdate.model_validate({name: None})
