import json
from typing import get_args

import anthropic.types.beta as sdk
from anthropic.types.beta import BetaWebhookEvent
from anthropic.types.beta.beta_webhook_event_data import BetaWebhookEventData

from intramuros.protocol.webhooks import (
    EMITTED,
    LEGACY_KINDS,
    ORGANIZATION_KINDS,
    WORKSPACE_KINDS,
    payload,
)


def sdk_kinds() -> set[str]:
    union = get_args(get_args(BetaWebhookEventData)[0])
    return {get_args(model.model_fields["type"].annotation)[0] for model in union}


def test_R263_every_kind_of_the_sdk_is_known_and_no_other() -> None:
    assert sdk_kinds() == WORKSPACE_KINDS | ORGANIZATION_KINDS
    assert not WORKSPACE_KINDS & ORGANIZATION_KINDS
    assert "vault.updated" not in WORKSPACE_KINDS


def test_R262_older_kinds_may_be_subscribed_to_and_are_not_emitted() -> None:
    assert {f"session.{name}" for name in ("created", "pending", "running", "idled")} | {
        "session.requires_action",
        "session.archived",
    } == LEGACY_KINDS
    assert EMITTED == (WORKSPACE_KINDS | ORGANIZATION_KINDS) - LEGACY_KINDS


def test_c26_1_R258_a_payload_holds_ids_and_reads_as_the_sdks_event() -> None:
    data = {"type": "session.thread_idled", "id": "sesn_1", "workspace_id": "w"}
    text = payload(
        "whe_1", "2026-03-18T14:05:22.000000Z", "org", {**data, "session_thread_id": "sthr_1"}
    )
    assert json.loads(text) == {
        "type": "event",
        "id": "whe_1",
        "created_at": "2026-03-18T14:05:22.000000Z",
        "data": {**data, "organization_id": "org", "session_thread_id": "sthr_1"},
    }
    event = BetaWebhookEvent.model_validate_json(text)
    assert isinstance(event.data, sdk.BetaWebhookSessionThreadIdledEventData)
    assert event.data.session_thread_id == "sthr_1"
