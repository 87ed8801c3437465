"""Agents through the official SDK."""

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.wire.structure import check

pytestmark = pytest.mark.anyio

FULL = {
    "name": "Analyst",
    "description": "Reads things",
    "system": "Be brief.",
    "model": {"id": "claude-opus-5-5", "effort": "xhigh", "inference_geo": "us", "speed": "fast"},
    "metadata": {"team": "finance"},
    "mcp_servers": [{"type": "url", "name": "crm", "url": "https://crm.example.com/mcp"}],
    "tools": [
        {
            "type": "agent_toolset_20260401",
            "default_config": {"enabled": False},
            "configs": [
                {"name": "bash", "permission_policy": {"type": "always_ask"}},
                {"name": "read", "type": "read", "enabled": True},
                {
                    "name": "web_fetch",
                    "allowed_domains": ["docs.example.com"],
                    "url_sources": {
                        "user_input": "none",
                        "client_tool_results": {
                            "type": "only",
                            "tools": [{"type": "tool_reference", "name": "lookup"}],
                        },
                    },
                },
                {"name": "web_search", "user_location": {"type": "approximate", "country": "CH"}},
            ],
        },
        {"type": "mcp_toolset", "mcp_server_name": "crm", "configs": [{"name": "find"}]},
        {
            "type": "custom",
            "name": "lookup",
            "description": "Looks up",
            "input_schema": {
                "type": "object",
                "properties": {"q": {"type": "string"}},
                "required": ["q"],
                "x-own": [1],
            },
        },
    ],
}


@pytest.mark.rule("c5_2", "c5_3", "c6_1", "c6_2", "c6_3", "c6_4", "c6_6", "R096", "R098", "R099")
def test_create_resolves_every_default(client: Anthropic) -> None:
    agent = client.beta.agents.create(**FULL)
    check(agent)
    assert agent.id.startswith("agent_")
    assert (agent.version, agent.archived_at) == (1, None)
    assert agent.model.effort is not None
    assert agent.model.effort.type == "xhigh"
    builtin, mcp, custom = agent.tools
    assert builtin.type == "agent_toolset_20260401"
    assert [(c.name, c.type, c.enabled, c.permission_policy.type) for c in builtin.configs] == [
        ("bash", "bash", False, "always_ask"),
        ("read", "read", True, "always_allow"),
        ("web_fetch", "web_fetch", False, "always_allow"),
        ("web_search", "web_search", False, "always_allow"),
    ]
    assert mcp.type == "mcp_toolset"
    assert (mcp.default_config.enabled, mcp.default_config.permission_policy.type) == (
        True,
        "always_ask",
    )
    assert mcp.configs[0].permission_policy.type == "always_ask"
    assert custom.type == "custom"
    assert custom.input_schema.to_dict()["x-own"] == [1]
    assert client.beta.agents.retrieve(agent.id) == agent


@pytest.mark.rule("c4_23", "c5_1", "c5_2", "c5_4", "c5_15")
def test_minimal_create_says_every_nullable(client: Anthropic) -> None:
    agent = client.beta.agents.create(name="a", model="scripted/demo")
    check(agent)
    assert agent.model.to_dict() == {
        "id": "scripted/demo",
        "effort": {"type": "high"},
        "inference_geo": None,
        "speed": "standard",
    }
    assert agent.execution_identity.type == "service_account"
    assert (agent.tools, agent.mcp_servers, agent.skills, agent.metadata) == ([], [], [], {})


@pytest.mark.rule("c4_7", "c5_6", "c5_7", "c5_8", "c5_9", "c5_20", "c5_21", "R030")
def test_versions_grow_only_with_changes_and_stay_readable(client: Anthropic) -> None:
    first = client.beta.agents.create(name="v1", model="m", system="one", metadata={"a": "1"})
    same = client.beta.agents.update(first.id, version=1, name="v1", metadata={"a": "1"})
    assert same == first
    second = client.beta.agents.update(
        first.id, version=1, system="", metadata={"a": None, "b": "2"}
    )
    assert (second.version, second.system, second.metadata) == (2, None, {"b": "2"})
    third = client.beta.agents.update(first.id, name="v3")
    assert third.version == 3
    assert third.updated_at >= second.updated_at > first.updated_at
    assert client.beta.agents.retrieve(first.id, version=1).system == "one"
    listed = list(client.beta.agents.versions.list(first.id, limit=2))
    assert [(a.version, a.name) for a in listed] == [(3, "v3"), (2, "v1"), (1, "v1")]
    for agent in listed:
        check(agent)


@pytest.mark.rule("c1_24", "c5_8", "R021")
def test_a_stale_version_conflicts_without_being_retried(client: Anthropic) -> None:
    agent = client.beta.agents.create(name="a", model="m")
    client.beta.agents.update(agent.id, name="b")
    with pytest.raises(anthropic.ConflictError) as caught:
        client.beta.agents.update(agent.id, version=1, name="b")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.type == "conflict_error"


@pytest.mark.rule("c5_3", "c5_13", "c5_14")
def test_effort_follows_the_model(client: Anthropic) -> None:
    agent = client.beta.agents.create(
        name="a", model={"id": "m", "effort": {"type": "low"}, "inference_geo": "us"}
    )
    agent = client.beta.agents.update(agent.id, model="m")
    assert agent.model.to_dict()["effort"] == {"type": "low"}
    assert agent.model.inference_geo is None
    agent = client.beta.agents.update(agent.id, model={"id": "n"})
    assert agent.model.to_dict()["effort"] == {"type": "high"}


@pytest.mark.rule("c4_21", "c5_17", "c5_18")
def test_archive_is_final_and_repeatable(client: Anthropic) -> None:
    agent = client.beta.agents.create(name="a", model="m")
    archived = client.beta.agents.archive(agent.id)
    check(archived)
    assert archived.archived_at is not None
    assert client.beta.agents.archive(agent.id) == archived
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        client.beta.agents.update(agent.id, name="b")
    newest = client.beta.agents.list(limit=1, include_archived=True).data
    assert newest == [archived]
    assert archived.id not in [a.id for a in client.beta.agents.list(limit=5).data]


@pytest.mark.rule("c4_10", "c4_12", "c4_13", "c4_20", "R014", "R026")
async def test_lists_page_newest_first_with_both_clients(
    client: Anthropic, async_client: AsyncAnthropic
) -> None:
    made = [client.beta.agents.create(name=f"n{i}", model="m") for i in range(5)]
    since = made[0].created_at
    seen = list(client.beta.agents.list(limit=2, created_at_gte=since))
    assert [a.id for a in seen] == [a.id for a in reversed(made)]
    also = [a.id async for a in async_client.beta.agents.list(limit=2, created_at_gte=since)]
    assert also == [a.id for a in seen]
    until = made[2].created_at
    few = list(client.beta.agents.list(created_at_gte=since, created_at_lte=until))
    assert [a.name for a in few] == ["n2", "n1", "n0"]


@pytest.mark.rule("c4_16", "c4_17", "R028")
def test_cursors_are_bound_to_their_filters(client: Anthropic) -> None:
    for index in range(2):
        client.beta.agents.create(name=f"c{index}", model="m")
    page = client.beta.agents.list(limit=1)
    assert page.next_page is not None
    for bad in ({"include_archived": True, "page": page.next_page}, {"page": "page_x"}):
        with pytest.raises(anthropic.BadRequestError, match="page:"):
            client.beta.agents.list(**bad)
    for limit in (0, 101, -1):
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            client.beta.agents.list(limit=limit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name: "),
        ({"model": {"id": "m", "effort": "huge"}}, "model.effort: "),
        ({"budget": 1}, "budget: unknown field"),
        ({"tools": [{"type": "magic"}]}, r"tools\[0\]: .*magic"),
        ({"tools": [{"type": "mcp_toolset", "mcp_server_name": "no"}]}, "names 'no'"),
        ({"mcp_servers": [{"type": "url", "name": "x", "url": "https://x"}]}, "uses 'x'"),
        ({"mcp_servers": [{"type": "url", "name": "x", "url": "https://u:p@x"}]}, "credentials"),
        ({"skills": [{"type": "custom", "skill_id": "skill_1"}]}, "`read` tool"),
        ({"multiagent": {"type": "coordinator", "agents": []}}, "multiagent"),
        ({"metadata": {f"k{i}": "v" for i in range(17)}}, "at most 16"),
        ({"execution_identity": {"type": "aws_role"}}, "role_arn"),
        (
            {"tools": [{"type": "agent_toolset_20260401", "configs": [{"name": "bash", "on": 1}]}]},
            r"tools\[0\].configs\[0\].on: unknown field",
        ),
    ],
)
@pytest.mark.rule("c4_5", "c5_12", "c5_23", "R029", "R094")
def test_what_is_wrong_is_named(client: Anthropic, change: dict[str, object], message: str) -> None:
    body = {"name": "a", "model": "m", **change}
    with pytest.raises(anthropic.BadRequestError, match=message) as caught:
        client.post("/v1/agents", body=body, cast_to=object, options={"headers": BETA})
    assert caught.value.type == "invalid_request_error"


@pytest.mark.rule("c5_20")
def test_missing_agents_and_versions_are_404(client: Anthropic) -> None:
    agent = client.beta.agents.create(name="a", model="m")
    with pytest.raises(anthropic.NotFoundError):
        client.beta.agents.retrieve("agent_none")
    with pytest.raises(anthropic.NotFoundError, match="version 9"):
        client.beta.agents.retrieve(agent.id, version=9)
    with pytest.raises(anthropic.BadRequestError, match="version"):
        client.beta.agents.retrieve(agent.id, version=0)


BETA = {"anthropic-beta": "managed-agents-2026-04-01"}
