"""The organization, its workspaces and API keys through the official SDK."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.wire.host import Server
from tests.wire.structure import check

pytestmark = pytest.mark.anyio


@pytest.fixture
def http(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.base_url, headers={"x-api-key": server.api_key}) as made:
        yield made


def key_for(http: httpx2.Client, workspace_id: str, *scopes: str) -> tuple[str, str]:
    """Return the id and the secret of a new key in a workspace."""
    answer = http.post(
        "/x/keys",
        json={"name": "k", "scopes": scopes or ["workspace:developer"]},
        headers={"anthropic-workspace-id": workspace_id},
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["id"], answer.json()["key"]


def as_key(server: Server, key: str) -> Anthropic:
    return Anthropic(base_url=server.base_url, api_key=key, max_retries=0)


def test_R363_R025_the_organization_is_shown_without_a_workspace(
    server: Server, client: Anthropic
) -> None:
    raw = client.beta.organization.with_raw_response.retrieve()
    found = raw.parse()
    check(found)
    assert found.type == "organization"
    assert raw.headers["anthropic-organization-id"] == found.id
    assert "anthropic-workspace-id" not in raw.headers
    with as_key(server, "sk-none-such-key") as nobody, pytest.raises(anthropic.AuthenticationError):
        nobody.beta.organization.retrieve()


async def test_workspaces_are_made_changed_and_listed(async_client: AsyncAnthropic) -> None:
    api = async_client.beta.organization.workspaces
    made = await api.create(name="Blue", tags={"team": "blue", "tier": "1"})
    check(made)
    assert made.id.startswith("wrkspc_")
    assert made.data_residency.to_dict() == {
        "allowed_inference_geos": "unrestricted",
        "default_inference_geo": "global",
        "workspace_geo": "us",
    }
    changed = await api.update(
        made.id, name="Navy", tags={"tier": None, "x": "y"}, display_color="#000080"
    )
    check(changed)
    assert (changed.name, changed.tags) == ("Navy", {"team": "blue", "x": "y"})
    assert await api.retrieve(made.id) == changed
    assert [w.id for w in (await api.list(ids=[made.id, "wrkspc_no"])).data] == [made.id]
    with pytest.raises(anthropic.NotFoundError):
        await api.retrieve("wrkspc_no")
    with pytest.raises(anthropic.BadRequestError, match="default_inference_geo"):
        await api.create(name="x", data_residency={"allowed_inference_geos": ["us"]})


def test_R027_lists_walk_both_ways(client: Anthropic) -> None:
    api = client.beta.organization.workspaces
    made = [api.create(name=f"walk {i}").id for i in range(4)]
    first = api.list(limit=2)
    check(first)
    assert [w.id for w in first.data] == [made[3], made[2]]
    assert (first.has_more, first.first_id, first.last_id) == (True, made[3], made[2])
    walked = [w.id for w in api.list(limit=1)]
    assert walked[:4] == made[::-1]
    back = api.list(limit=2, before_id=made[0])
    assert [w.id for w in back.data] == [made[2], made[1]]
    assert back.has_more
    assert [w.id for w in api.list(limit=1, before_id=made[1])][:2] == [made[2], made[3]]
    assert [w.id for w in api.list(ids=made, after_id=made[2])] == [made[1], made[0]]


def test_R028_positions_that_are_none_are_refused(client: Anthropic) -> None:
    api = client.beta.organization.workspaces
    with pytest.raises(anthropic.BadRequestError, match="after_id"):
        api.list(after_id="wrkspc_no")
    with pytest.raises(anthropic.BadRequestError, match="not together"):
        api.list(after_id="a", before_id="b")
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        api.list(limit=1001)


def test_R365_archiving_a_workspace_revokes_its_keys(
    server: Server, client: Anthropic, http: httpx2.Client
) -> None:
    api = client.beta.organization.workspaces
    made = api.create(name="Soon gone")
    key_id, secret = key_for(http, made.id)
    with as_key(server, secret) as inside:
        inside.beta.agents.list()
        archived = api.archive(made.id)
        check(archived)
        assert archived.archived_at is not None
        assert api.archive(made.id) == archived
        with pytest.raises(anthropic.AuthenticationError):
            inside.beta.agents.list()
    assert client.beta.organization.api_keys.retrieve(key_id).status == "archived"
    assert made.id not in [w.id for w in api.list()]
    assert made.id in [w.id for w in api.list(include_archived=True)]
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        api.update(made.id, name="Back")
    answer = http.post("/x/keys", json={}, headers={"anthropic-workspace-id": made.id})
    assert answer.status_code == 400


def test_R366_the_default_workspace_stays_as_it_is(client: Anthropic) -> None:
    api = client.beta.organization.workspaces
    plain = {w.id for w in api.list()}
    default = [w for w in api.list(include_default=True) if w.id not in plain]
    assert len(default) == 1
    check(default[0])
    assert default[0].id.startswith("wrkspc_")
    with pytest.raises(anthropic.BadRequestError, match="renamed"):
        api.update(default[0].id, name="Other")
    with pytest.raises(anthropic.BadRequestError, match="default"):
        api.archive(default[0].id)


def test_R367_R295_a_profile_is_attached_once_and_then_named(
    server: Server, client: Anthropic, http: httpx2.Client
) -> None:
    api, profiles = client.beta.organization.workspaces, client.beta.user_profiles
    one = profiles.create(access_type="passthrough").id
    other = profiles.create(access_type="passthrough").id
    made = api.create(name="Tenant")
    assert made.user_profile_id is None
    attached = api.update(made.id, user_profile_id=one)
    check(attached)
    assert attached.user_profile_id == one
    assert api.update(made.id, user_profile_id=one) == attached
    with pytest.raises(anthropic.BadRequestError, match="for good"):
        api.update(made.id, user_profile_id=other)
    with pytest.raises(anthropic.BadRequestError) as unknown:
        api.create(name="t", user_profile_id="uprof_no")
    assert type(unknown.value).__name__ == "UserProfileNotFoundError"
    default = next(w for w in api.list(include_default=True) if w.name == "Default")
    with pytest.raises(anthropic.BadRequestError, match="default"):
        api.update(default.id, user_profile_id=one)
    _, secret = key_for(http, made.id, "workspace:inference")
    say: Any = {
        "model": "scripted/answer",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hello"}],
    }
    with as_key(server, secret) as inside:
        with pytest.raises(anthropic.BadRequestError, match="anthropic-user-profile-id") as none:
            inside.messages.create(**say)
        assert type(none.value).__name__ == "UserProfileRequiredError"
        with pytest.raises(anthropic.BadRequestError, match="another user profile"):
            inside.messages.create(**say, user_profile_id=other)
        assert inside.messages.create(**say, user_profile_id=one).type == "message"
        with pytest.raises(anthropic.BadRequestError):
            inside.messages.count_tokens(model=say["model"], messages=say["messages"])
        profiles.delete(one)
        assert api.retrieve(made.id).user_profile_id is None
        assert inside.messages.create(**say).type == "message"
    assert api.create(name="Second", user_profile_id=other).user_profile_id == other


def test_R367_reserved_tags_and_foreign_attachments_are_refused(client: Anthropic) -> None:
    api = client.beta.organization.workspaces
    made = api.create(name="Tagged")
    with pytest.raises(anthropic.BadRequestError, match="anthropic"):
        api.create(name="t", tags={"anthropic-x": "1"})
    with pytest.raises(anthropic.BadRequestError, match="anthropic"):
        api.update(made.id, tags={"anthropicX": "1"})
    with pytest.raises(anthropic.BadRequestError, match="external_key_id"):
        api.create(name="t", external_key_id="ek_1")
    with pytest.raises(anthropic.BadRequestError, match="user_profile_id"):
        api.update(made.id, user_profile_id="uprof_1")
    with pytest.raises(anthropic.BadRequestError, match="external_key_id"):
        api.update(made.id, external_key_id="ek_1")


def test_R023_workspaces_are_apart(server: Server, client: Anthropic, http: httpx2.Client) -> None:
    ours = client.beta.agents.create(name="ours", model="scripted/answer")
    made = client.beta.organization.workspaces.create(name="Apart")
    _, secret = key_for(http, made.id)
    with as_key(server, secret) as inside:
        raw = inside.beta.agents.with_raw_response.create(name="theirs", model="scripted/answer")
        theirs = raw.parse()
        assert raw.headers["anthropic-workspace-id"] == made.id
        environment = inside.beta.environments.create(name="theirs")
        session = inside.beta.sessions.create(agent=theirs.id, environment_id=environment.id)
        assert [a.id for a in inside.beta.agents.list()] == [theirs.id]
        with pytest.raises(anthropic.NotFoundError):
            inside.beta.agents.retrieve(ours.id)
        with pytest.raises(anthropic.APIStatusError):
            inside.beta.sessions.create(agent=ours.id, environment_id=environment.id)
        with pytest.raises(anthropic.PermissionDeniedError):
            inside.beta.organization.workspaces.list()
        with pytest.raises(anthropic.PermissionDeniedError, match="another workspace"):
            inside.beta.agents.list(extra_headers={"anthropic-workspace-id": "wrkspc_other"})
    for retrieve, one in (
        (client.beta.agents.retrieve, theirs.id),
        (client.beta.environments.retrieve, environment.id),
        (client.beta.sessions.retrieve, session.id),
        (client.beta.sessions.events.list, session.id),
    ):
        with pytest.raises(anthropic.NotFoundError):
            retrieve(one)


def test_R368_R369_keys_are_renamed_and_switched(
    server: Server, client: Anthropic, http: httpx2.Client
) -> None:
    api = client.beta.organization.api_keys
    made = client.beta.organization.workspaces.create(name="Keys")
    key_id, secret = key_for(http, made.id)
    raw = api.with_raw_response.retrieve(key_id)
    shown = raw.parse()
    check(shown)
    assert secret not in raw.text()
    assert shown.scope.to_dict() == {"type": "workspace", "workspace_id": made.id}
    assert (shown.status, shown.partial_key_hint or "") == (
        "active",
        f"sk-intramuros-api01-...{secret[-4:]}",
    )
    assert [k.id for k in api.list(workspace_id=made.id)] == [key_id]
    with as_key(server, secret) as inside:
        assert api.update(key_id, name="Other", status="inactive").name == "Other"
        with pytest.raises(anthropic.AuthenticationError):
            inside.beta.agents.list()
        assert [k.id for k in api.list(workspace_id=made.id, status="inactive")] == [key_id]
        assert list(api.list(workspace_id=made.id, status="active")) == []
        check(api.update(key_id, status="active"))
        inside.beta.agents.list()
        assert api.update(key_id, status="archived").status == "archived"
        with pytest.raises(anthropic.AuthenticationError):
            inside.beta.agents.list()
    with pytest.raises(anthropic.BadRequestError, match="for good"):
        api.update(key_id, status="active")
    with pytest.raises(anthropic.NotFoundError):
        api.retrieve("apikey_no")
    assert list(api.list(created_by_user_id="user_1")) == []


async def test_R027_keys_walk_too(async_client: AsyncAnthropic, http: httpx2.Client) -> None:
    made = await async_client.beta.organization.workspaces.create(name="Keys")
    ids = [key_for(http, made.id)[0] for _ in range(3)]
    api = async_client.beta.organization.api_keys
    assert [k.id async for k in api.list(workspace_id=made.id, limit=1)] == ids[::-1]
    changed = await api.update(ids[0], name="Renamed")
    check(changed)
    assert changed == await api.retrieve(ids[0])
