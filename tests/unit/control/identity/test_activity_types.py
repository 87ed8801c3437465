import re
from pathlib import Path

import pytest

from intramuros.control.identity.activity_types import NAMES, TYPES

ROOT = Path(__file__).parents[4]

# What the documentation of the feed names of agents (contract-2 R377), besides what comes with it.
DOCUMENTED = {
    *(f"platform_agent_{done}" for done in ("created", "updated", "archived", "deleted")),
    *(f"platform_agent_session_{done}" for done in ("created", "updated", "archived", "deleted")),
    *(f"platform_agent_session_resource_{done}" for done in ("added", "updated", "deleted")),
    "platform_agent_session_thread_archived",
    *(
        f"platform_agent_deployment_{done}"
        for done in ("created", "updated", "archived", "deleted", "paused", "unpaused")
    ),
    "platform_agent_deployment_run_triggered",
    *(f"platform_memory_{done}" for done in ("created", "updated", "deleted")),
    *(f"platform_memory_store_{done}" for done in ("created", "updated", "archived", "deleted")),
    "platform_memory_version_redacted",
    "platform_file_uploaded",
    "platform_file_deleted",
    "platform_file_content_downloaded",
    "platform_skill_version_created",
    "platform_skill_version_deleted",
    *(f"tunnel_{done}" for done in ("created", "archived")),
    *(f"tunnel_certificate_{done}" for done in ("added", "revoked")),
    *(f"tunnel_token_{done}" for done in ("revealed", "rotated")),
    "platform_federated_authentication",
}


@pytest.mark.rule("R377")
def test_R377_every_documented_type_of_agents_has_its_record() -> None:
    assert DOCUMENTED <= NAMES
    extensions = {"vault", "vault_credential", "environment", "webhook"}
    for noun in extensions:
        assert {f"platform_{noun}_{done}" for done in ("created", "updated", "deleted")} <= NAMES


def test_what_is_undocumented_is_in_our_guide() -> None:
    """Of the names that are ours, besides what the documentation calls a thing and its change."""
    guide = (ROOT / "docs/how-to/organization.md").read_text(encoding="utf-8")
    ours = ("environment", "environment_key", "pool_key", "vault", "vault_credential")
    ours += ("webhook", "dream", "user_profile", "telemetry_destination")
    for name in NAMES:
        if re.fullmatch(rf"platform_({'|'.join(ours)})_[a-z_]+", name):
            assert f"`{name}`" in guide, name


@pytest.mark.parametrize("kind", TYPES)
def test_no_shape_fails_for_lack_of_fields(kind: str) -> None:
    found = TYPES[kind]
    assert re.fullmatch(r"[a-z_]+(\.[a-z_]+){1,2}", kind)
    assert re.fullmatch(r"[a-z_]{1,80}", found.name)
    reserved = {"id", "type", "created_at", "actor", "organization_id", "organization_uuid"}
    assert reserved.isdisjoint(found.shape({}))


def test_a_limit_names_its_value() -> None:
    shape = TYPES["rate_limit.update"].shape
    one = shape({"workspace_id": "w", "group": "g", "limits": {"requests": 5}})
    assert (one["limiter_type"], one["value"]) == ("requests", 5)
    two = shape({"limits": {"requests": 5, "tokens": None}})
    assert (two["limiter_type"], two["value"]) == ("requests,tokens", None)
