"""What roles allow: keys that act as people, tried out through the official SDK."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import anthropic
import anyio
import httpx2
import pytest
from anthropic import Anthropic

from intramuros.control.identity.operator import dismiss_user, set_role
from tests.engines import elsewhere
from tests.wire.host import Server
from tests.wire.structure import check
from tests.wire.test_people import acting, address, allowed, person


@pytest.fixture
def http(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.base_url, headers={"x-api-key": server.api_key}) as made:
        yield made


@pytest.fixture
def org(client: Anthropic) -> Any:
    return client.beta.organization


@pytest.mark.parametrize(
    ("role", "wanted"),
    [
        ("user", set()),
        ("claude_code_user", set()),
        ("billing", set()),
        ("managed", set()),
        ("developer", {"developer"}),
    ],
)
def test_a_role_says_what_a_users_key_may_do(
    server: Server, org: Any, http: httpx2.Client, role: str, wanted: set[str]
) -> None:
    user = person(org, http, role)
    _, secret = acting(http, user.id)
    assert allowed(server, secret) == wanted


def test_a_change_of_role_counts_at_once(server: Server, org: Any, http: httpx2.Client) -> None:
    user = person(org, http, "developer")
    key_id, secret = acting(http, user.id)
    shown = org.api_keys.retrieve(key_id)
    check(shown)
    assert shown.principal.to_dict() == {"type": "user_actor", "user_id": user.id}
    assert allowed(server, secret) == {"developer"}
    changed = org.users.update(user.id, role="user")
    check(changed)
    assert changed.role == "user"
    assert allowed(server, secret) == set()
    org.users.update(user.id, role="developer")
    assert allowed(server, secret) == {"developer"}
    gone = org.users.remove(user.id)
    check(gone)
    assert (gone.id, gone.type) == (user.id, "user_deleted")
    with (
        Anthropic(base_url=server.base_url, api_key=secret, max_retries=0) as api,
        pytest.raises(anthropic.AuthenticationError),
    ):
        api.beta.agents.list()
    assert org.api_keys.retrieve(key_id).status == "archived"
    for call in (org.users.retrieve, org.users.remove):
        with pytest.raises(anthropic.NotFoundError):
            call(user.id)
    with pytest.raises(anthropic.NotFoundError):
        org.users.update(user.id, role="user")
    assert http.post("/x/keys", json={"user_id": user.id}).status_code == 404
    back = person(org, http, "user", user.email)
    assert back.id != user.id


def test_a_workspace_role_opens_that_workspace_and_no_other(
    server: Server, org: Any, http: httpx2.Client
) -> None:
    user = person(org, http, "developer")
    one, two = org.workspaces.create(name="One"), org.workspaces.create(name="Two")
    in_one, in_two = acting(http, user.id, one.id)[1], acting(http, user.id, two.id)[1]
    assert allowed(server, in_one) == allowed(server, in_two) == set()
    api = org.workspaces.members
    added = api.add(one.id, user_id=user.id, workspace_role="workspace_admin")
    check(added)
    assert added.to_dict() == {
        "type": "workspace_member",
        "user_id": user.id,
        "workspace_id": one.id,
        "workspace_role": "workspace_admin",
    }
    assert allowed(server, in_one) == {"developer", "tunnels"}
    assert allowed(server, in_two) == set()
    assert api.retrieve(user.id, workspace_id=one.id) == added
    changed = api.update(user.id, workspace_id=one.id, workspace_role="workspace_user")
    check(changed)
    assert changed.workspace_role == "workspace_user"
    assert allowed(server, in_one) == set()
    with pytest.raises(anthropic.BadRequestError, match="workspace_billing"):
        api.update(user.id, workspace_id=one.id, workspace_role="workspace_billing")
    with pytest.raises(anthropic.ConflictError) as caught:
        api.add(one.id, user_id=user.id, workspace_role="workspace_user")
    assert caught.value.response.headers["x-should-retry"] == "false"
    api.update(user.id, workspace_id=one.id, workspace_role="workspace_developer")
    assert allowed(server, in_one) == {"developer"}
    gone = api.remove(user.id, workspace_id=one.id)
    check(gone)
    assert gone.type == "workspace_member_deleted"
    assert allowed(server, in_one) == set()
    for call in (api.retrieve, api.remove):
        with pytest.raises(anthropic.NotFoundError):
            call(user.id, workspace_id=one.id)
    with pytest.raises(anthropic.NotFoundError):
        api.add("wrkspc_no", user_id=user.id, workspace_role="workspace_user")
    with pytest.raises(anthropic.NotFoundError):
        api.add(one.id, user_id="user_no", workspace_role="workspace_user")
    org.workspaces.archive(two.id)
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        api.add(two.id, user_id=user.id, workspace_role="workspace_user")


def test_a_restricted_developer_downloads_nothing(
    server: Server, org: Any, http: httpx2.Client
) -> None:
    user = person(org, http, "user")
    workspace = org.workspaces.create(name="W")
    org.workspaces.members.add(
        workspace.id, user_id=user.id, workspace_role="workspace_restricted_developer"
    )
    _, secret = acting(http, user.id, workspace.id)
    with Anthropic(base_url=server.base_url, api_key=secret, max_retries=0) as api:
        file = api.beta.files.upload(file=("a.txt", b"a"))
        with pytest.raises(anthropic.PermissionDeniedError, match="may not download"):
            api.beta.files.download(file.id)
        org.workspaces.members.update(
            user.id, workspace_id=workspace.id, workspace_role="workspace_developer"
        )
        with pytest.raises(anthropic.BadRequestError):  # as everybody: a client uploaded it
            api.beta.files.download(file.id)


def test_keys_may_have_an_end(org: Any, http: httpx2.Client) -> None:
    made = http.post("/x/keys", json={"expires_in_seconds": 3600}).json()
    shown = org.api_keys.retrieve(made["id"])
    check(shown)
    assert shown.status == "active"
    assert (shown.expires_at - shown.created_at).total_seconds() == pytest.approx(3600, abs=1)
    for wrong in (0, 59, -1, 10**12, "3600", 3600.5, True):
        answer = http.post("/x/keys", json={"expires_in_seconds": wrong})
        assert answer.status_code == 400
        assert "expires_in_seconds" in answer.text


def test_keys_say_who_made_them(org: Any, http: httpx2.Client, client: Anthropic) -> None:
    listed = list(client.beta.organization.api_keys.list(created_by_user_id="user_no"))
    assert listed == []
    user = person(org, http)
    key_id, _ = acting(http, user.id)
    assert org.api_keys.retrieve(key_id).created_by is None  # a key that acts as nobody made it


def test_nobody_climbs(server: Server, org: Any, http: httpx2.Client) -> None:
    """A member with every scope on paper gets no further than their role, whatever they ask."""
    other, user = org.workspaces.create(name="Other"), person(org, http, "developer")
    group = org.rbac_groups.create(name="G")
    _, secret = acting(http, user.id)
    steps: list[tuple[str, str, Any]] = [
        ("POST", f"/v1/organizations/users/{user.id}", {"role": "billing"}),
        ("DELETE", f"/v1/organizations/users/{user.id}", None),
        ("POST", "/v1/organizations/invites", {"email": address(), "role": "developer"}),
        (
            "POST",
            f"/v1/organizations/workspaces/{other.id}/members",
            {"user_id": user.id, "workspace_role": "workspace_admin"},
        ),
        ("POST", f"/v1/organizations/rbac_groups/{group.id}/members", {"user_id": user.id}),
        ("POST", f"/x/rbac_groups/{group.id}/roles", {"role_ids": ["rbac_role_tunnel_manager"]}),
        ("POST", "/x/keys", {"scopes": ["org:admin"]}),
        ("POST", "/x/keys", {"user_id": user.id}),
        ("GET", "/x/keys", None),
        ("GET", "/v1/organizations/users", None),
        ("POST", "/v1/organizations/compliance_settings", {"state": "disabled"}),
    ]
    for method, path, body in steps:
        for headers in ({}, {"anthropic-workspace-id": other.id}):
            answer = http.request(method, path, json=body, headers={**headers, "x-api-key": secret})
            assert answer.status_code == 403, (method, path, answer.text)
    with (
        Anthropic(base_url=server.base_url, api_key=secret, max_retries=0) as api,
        pytest.raises(anthropic.PermissionDeniedError),
    ):
        api.beta.agents.list(extra_headers={"anthropic-workspace-id": other.id})
    assert org.users.retrieve(user.id).role == "developer"


def test_an_administrator_is_a_person_whom_only_the_operator_appoints(
    server: Server, org: Any, http: httpx2.Client
) -> None:
    keeper, user = person(org, http), person(org, http)
    for who in (keeper, user):
        anyio.run(partial(set_role, server.data_dir, who.id, "admin", **elsewhere(server.data_dir)))
    _, secret = acting(http, user.id)
    assert allowed(server, secret) == {"developer", "tunnels", "admin"}
    assert user.id in [u.id for u in org.users.list(roles=["admin"])]
    made = httpx2.post(f"{server.base_url}/x/keys", json={}, headers={"x-api-key": secret}).json()
    assert [k.id for k in org.api_keys.list(created_by_user_id=user.id)] == [made["id"]]
    shown = org.api_keys.retrieve(made["id"])
    check(shown)
    assert shown.created_by.to_dict() == {"id": user.id, "type": "user"}
    workspace = org.workspaces.create(name="W")
    assert allowed(server, acting(http, user.id, workspace.id)[1]) == {
        "developer",
        "tunnels",
        "admin",
    }
    with Anthropic(base_url=server.base_url, api_key=secret, max_retries=0) as api:
        with pytest.raises(anthropic.BadRequestError) as own:
            api.beta.organization.users.sign_out(user.id)
        assert type(own.value).__name__ == "BetaCannotSignOutSelfError"
        for act in (
            lambda: api.beta.organization.users.update(keeper.id, role="user"),
            lambda: api.beta.organization.users.remove(keeper.id),
            lambda: api.beta.organization.users.remove(user.id),
        ):
            with pytest.raises(anthropic.BadRequestError, match="intramuros user"):
                act()
        anyio.run(partial(set_role, server.data_dir, user.id, "user", **elsewhere(server.data_dir)))
        with pytest.raises(anthropic.PermissionDeniedError):
            api.beta.organization.users.list()
    anyio.run(partial(dismiss_user, server.data_dir, user.id, **elsewhere(server.data_dir)))
    with pytest.raises(anthropic.NotFoundError):
        org.users.retrieve(user.id)
    # The key that the person made belongs to the workspace and stays.
    assert org.api_keys.retrieve(made["id"]).status == "active"
