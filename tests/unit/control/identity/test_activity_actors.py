from typing import Any

import pytest

from intramuros.control.identity.activity_actors import actor, actor_id
from intramuros.control.identity.activity_types import TYPES

SEEN = {"address": "10.0.0.1", "agent": "sdk", "request_id": "req_1"}
SHOWN = {"ip_address": "10.0.0.1", "user_agent": "sdk"}
AGENT, ADMIN, EXCHANGE = "agent.create", "invite.create", "federation.exchange"
KEY = {**SEEN, "kind": "api_key", "credential_id": "apikey_1"}


@pytest.mark.rule("R376")
@pytest.mark.parametrize(
    ("kind", "fields", "wanted"),
    [
        (AGENT, {"origin": KEY}, {"type": "api_actor", "api_key_id": "apikey_1", **SHOWN}),
        (
            ADMIN,
            {"origin": KEY},
            {"type": "admin_api_key_actor", "admin_api_key_id": "apikey_1", **SHOWN},
        ),
        (
            ADMIN,
            {"origin": {**KEY, "user_id": "user_1"}},
            {"type": "user_actor", "user_id": "user_1", "email_address": "", **SHOWN},
        ),
        (
            ADMIN,
            {"origin": {**KEY, "service_account_id": "svac_1"}},
            {"type": "service_account_actor", "service_account_id": "svac_1", **SHOWN},
        ),
        (AGENT, {"origin": SEEN}, {"type": "unauthenticated_user_actor", **SHOWN}),
        (EXCHANGE, {"origin": SEEN}, {"type": "unauthenticated_user_actor", **SHOWN}),
        (
            EXCHANGE,
            {"origin": SEEN, "issuer": "fdis_1", "subject": "repo:x", "audience": ["a"]},
            {
                "type": "federated_identity_actor",
                "issuer": "fdis_1",
                "subject": "repo:x",
                "audience": ["a"],
                **SHOWN,
            },
        ),
        (
            EXCHANGE,
            {"origin": SEEN, "issuer": "fdis_1", "refused": "signature"},
            {
                "type": "federated_actor",
                "provider": {"type": "oidc", "issuer": None},
                "subject": None,
                **SHOWN,
            },
        ),
        (AGENT, {"by": "bootstrap"}, {"type": "anthropic_actor", "email_address": None}),
        (AGENT, {"by": "intramuros user"}, {"type": "anthropic_actor", "email_address": None}),
        (AGENT, {"by": "expiry"}, {"type": "system_actor", "service": "expiry"}),
        (AGENT, {}, {"type": "system_actor", "service": None}),
    ],
)
def test_R376_who_it_was(kind: str, fields: dict[str, Any], wanted: dict[str, Any]) -> None:
    if wanted["type"] == "unauthenticated_user_actor":
        wanted = {**wanted, "unauthenticated_email_address": None}
    assert actor(TYPES[kind], fields) == wanted


def test_a_person_is_found_before_their_key() -> None:
    assert actor_id({"origin": {**KEY, "user_id": "user_1"}}) == "user_1"
    assert actor_id({"origin": {**KEY, "service_account_id": "svac_1"}}) == "svac_1"
    assert actor_id({"origin": KEY}) == "apikey_1"
    assert actor_id({"origin": SEEN}) is None
    assert actor_id({}) is None
