"""The compliance settings through the official SDK, and the feed, which no SDK knows."""

import io
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from intramuros.control.identity.activity_types import NAMES
from tests.authorities import authority
from tests.wire.host import Server
from tests.wire.structure import check
from tests.wire.test_people import acting, address, allowed, person

pytestmark = pytest.mark.anyio

FEED = "/v1/compliance/activities"
SKILL = b"---\nname: calc\ndescription: Adds.\n---\nAdd.\n"


@pytest.fixture
def http(server: Server) -> Iterator[httpx2.Client]:
    headers = {"x-api-key": server.api_key, "user-agent": "auditor/1"}
    with httpx2.Client(base_url=server.base_url, headers=headers, timeout=60) as made:
        yield made


@pytest.fixture
def org(client: Anthropic) -> Any:
    return client.beta.organization


@pytest.fixture
def enabled(org: Any) -> Iterator[None]:
    """Activities are captured during the test."""
    org.compliance_settings.update(state={"type": "enabled"})
    yield
    org.compliance_settings.update(state={"type": "disabled"})


def feed(http: httpx2.Client, **params: Any) -> Any:
    answer = http.get(FEED, params={name.replace("__", "."): v for name, v in params.items()})
    assert answer.status_code == 200, answer.text
    return answer.json()


def start(http: httpx2.Client) -> str:
    """Return the id of an activity that is newer than all before it: the reading of the feed."""
    feed(http, limit=1)
    found = feed(http, **{"limit": 1, "activity_types[]": "compliance_api_accessed"})["data"]
    return str(found[0]["id"])


def since(http: httpx2.Client, mark: str, **params: Any) -> list[Any]:
    """Return what happened after a mark, oldest first, besides the reading itself."""
    more: dict[str, Any] = {"order": "asc", "after_id": mark, "limit": 5000, **params}
    found = feed(http, **more)["data"]
    return [a for a in found if a["type"] != "compliance_api_accessed"]


@pytest.mark.rule("R373")
async def test_R373_the_settings_are_one_switch(
    async_client: AsyncAnthropic, http: httpx2.Client
) -> None:
    api = async_client.beta.organization.compliance_settings
    off = await api.update(state={"type": "disabled"})
    check(off)
    assert off.to_dict() == {"type": "compliance_settings", "state": {"type": "disabled"}}
    bare: Any = "enabled"
    on = await api.update(state=bare)
    check(on)
    assert on.state.type == "enabled"
    assert await api.retrieve() == on
    refused = http.post("/v1/organizations/compliance_settings", json={"state": "perhaps"})
    assert refused.status_code == 400
    assert "state" in refused.text
    assert (await api.update(state={"type": "disabled"})).state.type == "disabled"
    answer = http.get(FEED)
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "permission_error"


@pytest.mark.rule("R373")
def test_R373_only_what_happens_while_enabled_is_captured(
    client: Anthropic, org: Any, http: httpx2.Client
) -> None:
    unseen = client.beta.agents.create(name="unseen", model="scripted/answer").id
    org.compliance_settings.update(state={"type": "enabled"})
    org.compliance_settings.update(state={"type": "enabled"})  # a second time changes nothing
    mark = start(http)
    seen = client.beta.agents.create(name="seen", model="scripted/answer").id
    org.compliance_settings.update(state={"type": "disabled"})
    lost = client.beta.agents.create(name="lost", model="scripted/answer").id
    org.compliance_settings.update(state={"type": "enabled"})
    found = since(http, mark)
    switched = "org_compliance_api_settings_updated"
    assert [a["type"] for a in found] == ["platform_agent_created", switched, switched]
    assert [a["compliance_api_enabled"] for a in found[1:]] == [False, True]
    everything = str(feed(http, limit=5000))
    assert seen in everything
    assert unseen not in everything
    assert lost not in everything
    org.compliance_settings.update(state={"type": "disabled"})


@pytest.mark.usefixtures("enabled")
@pytest.mark.rule("R374")
def test_R374_an_activity_is_there_at_once_newest_first(
    client: Anthropic, http: httpx2.Client, server: Server
) -> None:
    agent = client.beta.agents.create(name="a", model="scripted/answer")
    client.beta.agents.archive(agent.id)
    listed = feed(http, limit=2)
    newest = listed["data"][0]
    organization = client.beta.organization.retrieve().id
    key = newest["actor"].pop("api_key_id")
    assert client.beta.organization.api_keys.retrieve(key).status == "active"
    assert newest.pop("created_at")[:10] == listed["data"][1]["created_at"][:10]
    assert newest == {
        "id": listed["first_id"],
        "type": "platform_agent_archived",
        "organization_id": "org_" + organization.replace("-", ""),
        "organization_uuid": organization,
        "agent_id": agent.id,
        "workspace_id": newest["workspace_id"],
        "actor": {
            "type": "api_actor",
            "ip_address": "127.0.0.1",
            "user_agent": newest["actor"]["user_agent"],
        },
    }
    assert newest["actor"]["user_agent"].startswith("Anthropic/Python")
    assert listed["data"][1]["type"] == "platform_agent_created"
    assert listed["last_id"] == listed["data"][1]["id"]
    assert listed["has_more"]


@pytest.mark.usefixtures("enabled")
@pytest.mark.rule("R374")
def test_R374_pages_are_walked_both_ways_while_more_happens(
    client: Anthropic, http: httpx2.Client
) -> None:
    mark = start(http)
    made = [client.beta.agents.create(name="a", model="scripted/answer").id for _ in range(5)]
    only = {"activity_types[]": "platform_agent_created"}
    first = feed(http, limit=2, **only)
    assert [a["agent_id"] for a in first["data"]] == made[:2:-1]
    client.beta.agents.create(name="later", model="scripted/answer")
    second = feed(http, limit=2, after_id=first["last_id"], **only)
    assert [a["agent_id"] for a in second["data"]] == [made[2], made[1]]
    back = feed(http, limit=2, before_id=second["first_id"], **only)
    assert [a["agent_id"] for a in back["data"]] == made[:2:-1]
    assert back["has_more"]  # the later one
    upwards = feed(http, order="asc", limit=3, after_id=mark, **only)
    assert [a["agent_id"] for a in upwards["data"]] == made[:3]
    down = feed(http, order="asc", limit=2, before_id=upwards["last_id"], **only)
    assert [a["agent_id"] for a in down["data"]] == made[:2]
    end = feed(http, order="asc", limit=5, after_id=feed(http, limit=1, **only)["first_id"], **only)
    assert end == {"data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.usefixtures("enabled")
@pytest.mark.rule("R374", "R375")
@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 5001}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"order": "up"}, "order"),
        ({"after_id": "activity_1"}, "after_id"),
        ({"before_id": "activity_" + "0" * 28}, "before_id"),
        ({"after_id": "a", "before_id": "b"}, "not together"),
        ({"created_at.gte": "2026-01-01"}, "created_at.gte"),
        ({"created_at[lt]": "yesterday"}, r"created_at[lt]"),
        ({"activity_types[]": "a", "exclude_activity_types[]": "b"}, "not together"),
        ({"activity_types[]": "Robert'); DROP"}, "activity_types[]"),
    ],
)
def test_R375_what_cannot_be_asked(http: httpx2.Client, params: dict[str, Any], named: str) -> None:
    answer = http.get(FEED, params=params)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert named in answer.json()["error"]["message"]


@pytest.mark.usefixtures("enabled")
def test_filters_by_type_actor_time_and_organization(
    client: Anthropic, org: Any, http: httpx2.Client
) -> None:
    mark = start(http)
    agent = client.beta.agents.create(name="a", model="scripted/answer")
    vault = client.beta.vaults.create(display_name="v")
    user = person(org, http)
    key_id, _ = acting(http, user.id)
    found = since(http, mark)
    types = [a["type"] for a in found]
    assert types == [
        "platform_agent_created",
        "platform_vault_created",
        "org_user_invite_sent",
        "platform_user_added",
        "org_user_invite_accepted",
        "platform_api_key_created",
    ]
    both = {"activity_types[]": ["platform_vault_created", "platform_agent_created"]}
    assert [a["type"] for a in since(http, mark, **both)] == types[:2]
    without = since(http, mark, **{"exclude_activity_types[]": types[2:]})
    assert [a["type"] for a in without] == types[:2]
    assert since(http, mark, **{"activity_types[]": "claude_chat_created"}) == []
    times = [a["created_at"] for a in found]
    for low, high in (("created_at.gte", "created_at.lt"), ("created_at[gt]", "created_at[lte]")):
        bounded = feed(http, **{low: times[1], high: times[3], "order": "asc"})["data"]
        wanted = types[1:3] if low.endswith("gte") else types[2:4]
        assert [a["type"] for a in bounded] == wanted
    ours = org.retrieve().id
    for name in (ours, "org_" + ours.replace("-", "")):
        listed = feed(http, **{"organization_ids[]": name, "limit": 6})["data"]
        assert [a["id"] for a in listed] == [a["id"] for a in found[::-1]]
    assert feed(http, **{"organization_ids[]": "org_other"})["data"] == []
    assert feed(http, **{"actor_ids[]": user.id})["data"] == []
    boss = found[0]["actor"]["api_key_id"]
    by_boss = feed(http, **{"user_ids[]": [boss, user.id], "order": "asc", "after_id": mark})
    assert [a["type"] for a in by_boss["data"] if "accessed" not in a["type"]][:2] == types[:2]
    assert {agent.id, vault.id, key_id} <= {str(v) for a in found for v in a.values()}


@pytest.mark.usefixtures("enabled")
@pytest.mark.rule("R376")
def test_R376_people_keys_and_accounts_are_told_apart(
    server: Server, client: Anthropic, org: Any, http: httpx2.Client
) -> None:
    user = person(org, http)
    _, secret = acting(http, user.id)
    mark = start(http)
    with Anthropic(base_url=server.base_url, api_key=secret, max_retries=0) as api:
        api.beta.agents.create(name="theirs", model="scripted/answer")
    client.beta.agents.create(name="ours", model="scripted/answer")
    org.users.update(user.id, role="user")
    theirs, ours, admin = since(http, mark)
    assert theirs["actor"]["type"] == "user_actor"
    assert theirs["actor"]["user_id"] == user.id
    assert theirs["actor"]["email_address"] == user.email
    assert ours["actor"]["type"] == "api_actor"
    assert admin["actor"]["type"] == "admin_api_key_actor"
    assert admin["actor"]["admin_api_key_id"] == ours["actor"]["api_key_id"]
    mine = feed(http, **{"actor_ids[]": user.id})["data"]
    assert [a["id"] for a in mine] == [theirs["id"]]
    body = {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": "e30.e30.e30",
        "federation_rule_id": "fdrl_no",
        "organization_id": org.retrieve().id,
    }
    assert http.post("/v1/oauth/token", json=body).status_code == 401
    stranger = feed(http, **{"activity_types[]": "platform_federated_authentication"})["data"][0]
    assert stranger["actor"]["type"] == "unauthenticated_user_actor"
    assert stranger["status"]["outcome"] == "denied"


@pytest.mark.usefixtures("enabled")
@pytest.mark.rule("R377")
def test_R377_what_agents_are_and_do_is_told(client: Anthropic, http: httpx2.Client) -> None:
    mark, api = start(http), client.beta
    agent = api.agents.create(name="a", model="scripted/answer")
    api.agents.update(agent.id, version=1, name="b")
    environment = api.environments.create(name="e")
    session = api.sessions.create(agent=agent.id, environment_id=environment.id)
    api.sessions.update(session.id, title="t")
    mounted = api.files.upload(file=("m.txt", b"m")).id
    resource = api.sessions.resources.add(
        session.id, type="file", file_id=mounted, mount_path="/m.txt"
    )
    api.sessions.resources.delete(resource.id, session_id=session.id)
    api.sessions.archive(session.id)
    api.sessions.delete(session.id)
    store = api.memory_stores.create(name="s")
    memory = api.memory_stores.memories.create(store.id, path="/a", content="x")
    api.memory_stores.memories.update(memory.id, memory_store_id=store.id, content="y")
    old = list(api.memory_stores.memory_versions.list(store.id))[-1]
    api.memory_stores.memory_versions.redact(old.id, memory_store_id=store.id)
    api.memory_stores.memories.delete(memory.id, memory_store_id=store.id)
    api.memory_stores.archive(store.id)
    file = api.files.upload(file=("a.txt", b"a"))
    api.files.delete(file.id)
    skill = api.skills.create(files=[("calc/SKILL.md", io.BytesIO(SKILL), "text/markdown")])
    tunnel = api.tunnels.create()
    api.tunnels.reveal_token(tunnel.id)
    api.tunnels.rotate_token(tunnel.id)
    pem = authority()
    certificate = api.tunnels.certificates.create(tunnel.id, ca_certificate_pem=pem)
    api.tunnels.certificates.archive(certificate.id, tunnel_id=tunnel.id)
    api.tunnels.archive(tunnel.id)
    found = {a["type"]: a for a in since(http, mark)}
    assert list(found) == [
        "platform_agent_created",
        "platform_agent_updated",
        "platform_environment_created",
        "platform_agent_session_created",
        "platform_agent_session_updated",
        "platform_file_uploaded",
        "platform_agent_session_resource_added",
        "platform_file_deleted",
        "platform_agent_session_resource_deleted",
        "platform_agent_session_archived",
        "platform_agent_session_deleted",
        "platform_memory_store_created",
        "platform_memory_created",
        "platform_memory_updated",
        "platform_memory_version_redacted",
        "platform_memory_deleted",
        "platform_memory_store_archived",
        "platform_skill_version_created",
        "tunnel_created",
        "tunnel_token_revealed",
        "tunnel_token_rotated",
        "tunnel_certificate_added",
        "tunnel_certificate_revoked",
        "tunnel_archived",
    ]
    assert found["platform_agent_session_deleted"]["session_id"] == session.id
    created = found["platform_memory_created"]
    assert (created["memory_id"], created["memory_store_id"]) == (memory.id, store.id)
    assert found["platform_memory_version_redacted"]["memory_version_id"] == old.id
    assert found["platform_skill_version_created"]["skill_id"] == skill.id
    assert found["tunnel_certificate_added"]["tunnel_id"] == tunnel.id
    assert {a["workspace_id"] for a in found.values() if "workspace_id" in a} == {
        found["platform_agent_created"]["workspace_id"]
    }
    assert "x" not in [v for a in found.values() for v in a.values()]
    assert set(found) <= NAMES


@pytest.mark.usefixtures("enabled")
@pytest.mark.rule("R377")
def test_R377_deployments_are_told(client: Anthropic, http: httpx2.Client) -> None:
    mark, api = start(http), client.beta
    agent = api.agents.create(name="a", model="scripted/answer")
    environment = api.environments.create(name="e")
    say: Any = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}
    made = api.deployments.create(
        name="Nightly",
        agent=agent.id,
        environment_id=environment.id,
        initial_events=[say],
        schedule={"type": "cron", "expression": "0 3 1 1 *", "timezone": "Etc/UTC"},
    )
    api.deployments.update(made.id, name="Yearly")
    api.deployments.pause(made.id)
    api.deployments.unpause(made.id)
    api.deployments.run(made.id)
    api.deployments.archive(made.id)
    found = [a for a in since(http, mark) if a["type"].startswith("platform_agent_deployment_")]
    assert [a["type"].removeprefix("platform_agent_deployment_") for a in found] == [
        "created",
        "updated",
        "paused",
        "unpaused",
        "run_triggered",
        "archived",
    ]
    assert {a["deployment_id"] for a in found} == {made.id}
    assert {a["actor"]["type"] for a in found} == {"api_actor"}


@pytest.mark.usefixtures("enabled")
def test_what_administrators_do_is_told(org: Any, http: httpx2.Client) -> None:
    mark = start(http)
    email = address()
    invite = org.invites.create(email=email, role="developer")
    user_id = http.post(f"/x/invites/{invite.id}/accept", json={"name": "A"}).json()["id"]
    workspace = org.workspaces.create(name="W")
    org.workspaces.update(workspace.id, name="V", tags={"a": "private"})
    org.workspaces.members.add(workspace.id, user_id=user_id, workspace_role="workspace_user")
    org.workspaces.members.update(
        user_id, workspace_id=workspace.id, workspace_role="workspace_admin"
    )
    org.workspaces.members.remove(user_id, workspace_id=workspace.id)
    group = org.rbac_groups.create(name="G")
    org.rbac_groups.members.add(group.id, user_id=user_id)
    http.post(f"/x/rbac_groups/{group.id}/roles", json={"role_ids": ["rbac_role_developer"]})
    org.rbac_groups.delete(group.id)
    key_id, _ = acting(http, user_id)
    org.api_keys.update(key_id, name="renamed", status="inactive")
    org.users.sign_out(user_id)
    org.users.remove(user_id)
    org.workspaces.archive(workspace.id)
    found = {a["type"]: a for a in since(http, mark)}
    assert {a["actor"]["type"] for a in found.values()} == {"admin_api_key_actor"}
    assert found["org_user_invite_sent"]["invited_email"] == email
    assert found["org_user_invite_accepted"]["invite_id"] == invite.id
    assert found["org_user_deleted"]["deleted_user_email"] == email
    assert found["org_user_deleted"]["deleted_user_id"] == user_id
    renamed = {"type": "name", "previous_value": "W", "current_value": "V"}
    assert found["platform_workspace_updated"]["updates"] == [renamed]
    assert found["platform_workspace_member_updated"]["updates"] == [
        {
            "type": "workspace_role",
            "previous_value": "workspace_user",
            "current_value": "workspace_admin",
        }
    ]
    assert {u["type"] for u in found["platform_api_key_updated"]["updates"]} == {"name", "status"}
    assert found["group_created"]["group_name"] == "G"
    assert found["group_member_added"]["member_ids"] == [user_id]
    assert found["rbac_role_assigned"]["role_id"] == "rbac_role_developer"
    assert found["org_user_trusted_devices_revoked"]["user_id"] == user_id
    assert {
        "platform_workspace_created",
        "platform_workspace_member_added",
        "platform_workspace_member_removed",
        "platform_workspace_archived",
        "group_deleted",
        "platform_api_key_created",
    } <= set(found)


@pytest.mark.usefixtures("enabled")
def test_reading_the_feed_is_an_activity_of_no_organization(http: httpx2.Client) -> None:
    feed(http, limit=7)
    own = feed(http, **{"activity_types[]": "compliance_api_accessed", "limit": 1})["data"][0]
    assert own["organization_id"] is own["organization_uuid"] is None
    assert (own["request_method"], own["status_code"]) == ("GET", 200)
    assert own["url"].endswith(f"{FEED}?limit=7")
    assert own["request_id"].startswith("req_")
    assert own["actor"]["type"] == "api_actor"
    assert own["actor"]["user_agent"] == "auditor/1"


@pytest.mark.usefixtures("enabled")
def test_nobody_else_reads_it(server: Server, org: Any, http: httpx2.Client) -> None:
    user = person(org, http, "developer")
    _, secret = acting(http, user.id)
    assert allowed(server, secret) == {"developer"}
    for headers, status in (
        ({"x-api-key": secret}, 403),
        ({"x-api-key": "sk-nobody"}, 401),
        ({}, 401),
    ):
        for method, path in (
            ("GET", FEED),
            ("GET", "/v1/organizations/compliance_settings"),
            ("POST", "/v1/organizations/compliance_settings"),
        ):
            answer = httpx2.request(method, server.base_url + path, headers=headers)
            assert answer.status_code == status, (method, path)


@pytest.mark.usefixtures("enabled")
def test_a_peer_that_lies_about_itself(client: Anthropic, http: httpx2.Client) -> None:
    mark = start(http)
    headers = {"user-agent": "x" * 9000, "x-forwarded-for": "8.8.8.8"}
    client.beta.agents.create(name="a", model="scripted/answer", extra_headers=headers)
    who = since(http, mark)[0]["actor"]
    assert who["ip_address"] == "127.0.0.1"
    assert who["user_agent"] == "x" * 256
    with pytest.raises(anthropic.PermissionDeniedError):
        client.beta.agents.list(extra_headers={"anthropic-workspace-id": "wrkspc_other"})
