"""What this server leaves out fails clearly through the official SDK."""

from collections.abc import Callable

import anthropic
import pytest
from anthropic import Anthropic

from intramuros.protocol.not_served import NOT_SERVED

CALLS: dict[str, Callable[[Anthropic], object]] = {
    "/v1/messages/batches": lambda api: api.messages.batches.list(),
    "/v1/compliance/apps": lambda api: api.get("/v1/compliance/apps/chats", cast_to=object),
    "/v1/compliance/code": lambda api: api.get("/v1/compliance/code/artifacts", cast_to=object),
    "/v1/compliance/groups": lambda api: api.get("/v1/compliance/groups", cast_to=object),
    "/v1/compliance/organizations": lambda api: api.get(
        "/v1/compliance/organizations", cast_to=object
    ),
    "/v1/organizations/analytics": lambda api: api.beta.organization.analytics.users.list(
        date="2026-11-01"
    ),
    "/v1/organizations/claude_code": lambda api: (
        api.beta.organization.claude_code.managed_settings.configuration.retrieve()
    ),
    "/v1/organizations/claude_tag": lambda api: api.beta.organization.claude_tag.bundles.list(),
    "/v1/organizations/plugins": lambda api: api.beta.organization.plugins.retrieve("plugin_1"),
    "/v1/organizations/plugin_marketplaces": lambda api: (
        api.beta.organization.plugin_marketplaces.list()
    ),
    "/v1/organizations/external_keys": lambda api: api.beta.organization.external_keys.list(),
    "/v1/organizations/spend_limit_increase_requests": lambda api: (
        api.beta.organization.spend_limits.increase_requests.list()
    ),
}


def test_every_entry_is_called() -> None:
    assert set(CALLS) == {entry.path for entry in NOT_SERVED}


@pytest.mark.parametrize("entry", NOT_SERVED, ids=lambda entry: str(entry.path))
def test_a_call_is_a_404_that_says_why(client: Anthropic, entry: object) -> None:
    path, why = getattr(entry, "path", ""), getattr(entry, "why", "?")
    with pytest.raises(anthropic.NotFoundError, match=why) as caught:
        CALLS[path](client)
    assert caught.value.type == "not_found_error"
    assert caught.value.request_id
