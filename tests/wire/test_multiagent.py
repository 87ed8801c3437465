"""Agents that delegate, and their sessions, through the official SDK."""

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.wire.structure import check

pytestmark = pytest.mark.anyio


@pytest.mark.rule("c7_1", "c7_5", "c7_6")
def test_a_coordinator_is_shown_with_references(client: Anthropic) -> None:
    worker = client.beta.agents.create(name="Worker", model="m")
    lead = client.beta.agents.create(
        name="Lead",
        model="m",
        multiagent={
            "type": "coordinator",
            "agents": [{"type": "advisor", "model": "wise"}, worker.id, {"type": "self"}],
        },
    )
    check(lead)
    assert lead.multiagent is not None
    assert [entry.type for entry in lead.multiagent.agents] == ["agent", "agent", "advisor"]
    assert [(e.id, e.version) for e in lead.multiagent.agents[:2]] == [(worker.id, 1), (lead.id, 1)]
    renamed = client.beta.agents.update(lead.id, name="Head")
    check(renamed)
    assert renamed.multiagent.agents[1].version == 2
    listed = list(client.beta.agents.versions.list(lead.id))
    assert [version.multiagent.agents[1].version for version in listed] == [2, 1]
    assert client.beta.agents.update(lead.id, multiagent=None).multiagent is None


async def test_members_are_merged_on_update(async_client: AsyncAnthropic) -> None:
    off = {"type": "disabled"}
    lead = await async_client.beta.agents.create(
        name="Lead",
        model="m",
        multiagent={
            "type": "multiagent_20261001",
            "workflows": off,
            "advisor": {"type": "enabled", "model": "wise"},
        },
    )
    check(lead)
    changed = await async_client.beta.agents.update(
        lead.id, multiagent={"type": "multiagent_20261001", "subagents": off}
    )
    check(changed)
    assert changed.multiagent.subagents.type == "disabled"
    assert changed.multiagent.advisor.model == "wise"
    with pytest.raises(anthropic.BadRequestError, match="workflows"):
        await async_client.beta.agents.update(
            lead.id, multiagent={"type": "multiagent_20261001", "workflows": None}
        )
