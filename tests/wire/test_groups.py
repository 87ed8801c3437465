"""Groups, their members and the roles they give, through the official SDK."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.wire.host import Server
from tests.wire.structure import check
from tests.wire.test_people import acting, address, allowed, person

pytestmark = pytest.mark.anyio


@pytest.fixture
def http(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.base_url, headers={"x-api-key": server.api_key}) as made:
        yield made


@pytest.fixture
def org(client: Anthropic) -> Any:
    return client.beta.organization


def give(http: httpx2.Client, group_id: str, *role_ids: str) -> httpx2.Response:
    return http.post(f"/x/rbac_groups/{group_id}/roles", json={"role_ids": list(role_ids)})


async def test_groups_are_made_renamed_listed_and_deleted(async_client: AsyncAnthropic) -> None:
    api = async_client.beta.organization.rbac_groups
    made = await api.create(name="Blue")
    check(made)
    assert (made.name, made.role_ids, made.source_type) == ("Blue", [], "direct")
    assert made.id.startswith("rbac_group_")
    renamed = await api.update(made.id, name="Navy")
    check(renamed)
    assert renamed.name == "Navy"
    assert renamed.updated_at > made.updated_at
    assert await api.update(made.id, name=None) == renamed
    assert await api.retrieve(made.id) == renamed
    more = [(await api.create(name="Blue")).id for _ in range(2)]  # names need not be unique
    first = await api.list(limit=2)
    check(first)
    assert [g.id for g in first.data] == more[::-1]
    await api.create(name="later")  # an insert while somebody walks
    second = await first.get_next_page()
    assert second.data[0].id == made.id
    assert [g.id async for g in api.list(limit=1)][1:4] == [*more[::-1], made.id]
    gone = await api.delete(made.id)
    check(gone)
    assert gone.type == "rbac_group_deleted"
    with pytest.raises(anthropic.NotFoundError) as caught:
        await api.retrieve(made.id)
    assert type(caught.value).__name__ == "BetaRBACGroupNotFoundError"
    with pytest.raises(anthropic.BadRequestError, match="name"):
        await api.create(name="a\nb")
    with pytest.raises(anthropic.BadRequestError, match="page"):
        await api.list(page="page_no")


def test_members_of_groups(org: Any, http: httpx2.Client) -> None:
    api = org.rbac_groups
    group = api.create(name="G")
    users = [person(org, http, "user") for _ in range(3)]
    for user in users:
        check(api.members.add(group.id, user_id=user.id))
    again = api.members.add(group.id, user_id=users[0].id)
    assert (again.email, again.rbac_group_id) == (users[0].email, group.id)
    assert [m.user_id for m in api.members.list(group.id, limit=1)] == [u.id for u in users[::-1]]
    removed = api.members.remove(users[1].id, rbac_group_id=group.id)
    check(removed)
    assert removed.type == "rbac_group_member_deleted"
    assert [m.user_id for m in api.members.list(group.id)] == [users[2].id, users[0].id]
    with pytest.raises(anthropic.NotFoundError, match="not in group"):
        api.members.remove(users[1].id, rbac_group_id=group.id)
    with pytest.raises(anthropic.NotFoundError):
        api.members.add(group.id, user_id="user_no")
    with pytest.raises(anthropic.NotFoundError):
        api.members.list("rbac_group_no")
    org.users.remove(users[0].id)
    assert [m.user_id for m in api.members.list(group.id)] == [users[2].id]


def test_a_role_of_a_group_is_what_its_members_may_do(
    server: Server, org: Any, http: httpx2.Client
) -> None:
    user = person(org, http, "managed")
    other = org.workspaces.create(name="Other")
    secret, elsewhere = acting(http, user.id)[1], acting(http, user.id, other.id)[1]
    group = org.rbac_groups.create(name="Tunnels")
    org.rbac_groups.members.add(group.id, user_id=user.id)
    assert allowed(server, secret) == set()
    shown = give(http, group.id, "rbac_role_tunnel_manager", "rbac_role_developer")
    assert shown.json()["role_ids"] == ["rbac_role_developer", "rbac_role_tunnel_manager"]
    assert org.rbac_groups.retrieve(group.id).role_ids == shown.json()["role_ids"]
    assert allowed(server, secret) == {"developer", "tunnels"}
    assert allowed(server, elsewhere) == set()  # a group opens no workspace
    give(http, group.id, "rbac_role_tunnel_manager")
    assert allowed(server, secret) == {"tunnels"}
    org.rbac_groups.delete(group.id)
    assert allowed(server, secret) == set()


def test_no_group_administers(server: Server, org: Any, http: httpx2.Client) -> None:
    group = org.rbac_groups.create(name="Bosses")
    refused = give(http, group.id, "rbac_role_developer", "rbac_role_administrator")
    assert refused.status_code == 400
    assert refused.json()["error"]["details"]["error_code"] == "rbac_group_grants_owner_access"
    assert org.rbac_groups.retrieve(group.id).role_ids == []
    assert give(http, group.id, "rbac_role_no").status_code == 404


def test_an_invite_puts_into_groups(server: Server, org: Any, http: httpx2.Client) -> None:
    stays, goes = org.rbac_groups.create(name="Stays"), org.rbac_groups.create(name="Goes")
    invite = org.invites.create(
        email=address(), role="managed", rbac_group_ids=[stays.id, goes.id, stays.id]
    )
    check(invite)
    assert invite.rbac_group_ids == [stays.id, goes.id]
    org.rbac_groups.delete(goes.id)
    made = http.post(f"/x/invites/{invite.id}/accept", json={"name": "M"}).json()
    assert [m.user_id for m in org.rbac_groups.members.list(stays.id)] == [made["id"]]
    with pytest.raises(anthropic.NotFoundError) as caught:
        org.invites.create(email=address(), role="user", rbac_group_ids=["rbac_group_no"])
    assert type(caught.value).__name__ == "BetaRBACGroupNotFoundError"


async def test_built_in_roles_say_which_scopes_they_give(async_client: AsyncAnthropic) -> None:
    api = async_client.beta.organization.rbac_roles
    found = [role async for role in api.list(limit=1)]
    assert len(found) == len({role.id for role in found}) == 4
    given: dict[str, list[str]] = {}
    for role in found:
        check(role)
        assert role.source.type == "built_in"
        assert await api.retrieve(role.id) == role
        permissions = [p async for p in api.permissions.list(role.id, limit=1)]
        for permission in permissions:
            check(permission)
        given[role.display_name] = [p.action for p in permissions]
    assert given["Tunnel manager"] == ["workspace:manage_tunnels"]
    assert "org:admin" in given["Administrator"]
    for call in (api.retrieve("rbac_role_no"), api.permissions.list("rbac_role_no")):
        with pytest.raises(anthropic.NotFoundError) as caught:
            await call
        assert type(caught.value).__name__ == "RBACRoleNotFoundError"
