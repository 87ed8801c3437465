"""Users, invites and members of workspaces through the official SDK; and what roles allow."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import anthropic
import anyio
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.wire.host import Server
from tests.wire.structure import check

pytestmark = pytest.mark.anyio

_numbers = count(1)
MEMBER_DAYS = 21
WEBHOOKS = {"anthropic-beta": "webhooks-2026-10-07"}


@pytest.fixture
def http(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.base_url, headers={"x-api-key": server.api_key}) as made:
        yield made


@pytest.fixture
def org(client: Anthropic) -> Any:
    return client.beta.organization


def address() -> str:
    return f"person{next(_numbers)}@people.test"


def person(org: Any, http: httpx2.Client, role: str = "developer", email: str = "") -> Any:
    """Return a new member of the organization."""
    invite = org.invites.create(email=email or address(), role=role)
    answer = http.post(f"/x/invites/{invite.id}/accept", json={"name": "Ada"})
    assert answer.status_code == 200, answer.text
    return org.users.retrieve(answer.json()["id"])


def acting(http: httpx2.Client, user_id: str, workspace_id: str | None = None) -> tuple[str, str]:
    """Return the id and the secret of a key with every scope that acts as a user."""
    scopes = ["workspace:developer", "workspace:inference", "workspace:manage_tunnels", "org:admin"]
    headers = {} if workspace_id is None else {"anthropic-workspace-id": workspace_id}
    body = {"name": "k", "scopes": scopes, "user_id": user_id}
    answer = http.post("/x/keys", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"], answer.json()["key"]


def allowed(server: Server, secret: str) -> set[str]:
    """Return what a key may do, tried out: one harmless read for each scope."""
    found = set()
    with Anthropic(base_url=server.base_url, api_key=secret, max_retries=0) as api:
        for name, call in (
            ("developer", api.beta.agents.list),
            ("tunnels", api.beta.tunnels.list),
            ("admin", api.beta.organization.users.list),
        ):
            try:
                call()
            except anthropic.PermissionDeniedError:
                continue
            found.add(name)
    return found


def test_an_invite_lives_21_days_and_becomes_a_member(org: Any, http: httpx2.Client) -> None:
    email = address()
    raw = org.invites.with_raw_response.create(email=email, role="developer")
    invite = raw.parse()
    check(invite)
    assert (invite.status, invite.accepted_at, invite.role) == ("pending", None, "developer")
    assert (invite.expires_at - invite.invited_at).days == MEMBER_DAYS
    assert "anthropic-workspace-id" not in raw.headers
    assert org.invites.retrieve(invite.id) == invite
    assert [i.id for i in org.invites.list(email=email.upper())] == [invite.id]
    made = http.post(f"/x/invites/{invite.id}/accept", json={"name": "Ada Lovelace"}).json()
    user = org.users.retrieve(made["id"])
    check(user)
    assert (user.email, user.name, user.role) == (email, "Ada Lovelace", "developer")
    accepted = org.invites.retrieve(invite.id)
    check(accepted)
    assert accepted.status == "accepted"
    assert accepted.accepted_at is not None
    again = http.post(f"/x/invites/{invite.id}/accept", json={"name": "Eve"})
    assert again.status_code == 400
    assert "accepted, not pending" in again.text
    with pytest.raises(anthropic.BadRequestError, match="accepted, not pending"):
        org.invites.delete(invite.id)


@pytest.mark.rule("R364")
def test_R364_nobody_is_made_an_administrator(org: Any, http: httpx2.Client) -> None:
    user = person(org, http)
    with pytest.raises(anthropic.BadRequestError, match="role"):
        org.invites.create(email=address(), role="admin")
    with pytest.raises(anthropic.BadRequestError, match="role"):
        org.users.update(user.id, role="admin")
    workspace = org.workspaces.create(name="W")
    with pytest.raises(anthropic.BadRequestError, match="workspace_role"):
        org.workspaces.members.add(
            workspace.id, user_id=user.id, workspace_role="workspace_billing"
        )
    invite = org.invites.create(email=address(), role="user")
    assert (invite.expires_at - invite.invited_at).total_seconds() == MEMBER_DAYS * 24 * 3600


def test_an_address_is_invited_once_however_it_is_written(org: Any, http: httpx2.Client) -> None:
    number = next(_numbers)
    first = org.invites.create(email=f"Ren\u00e9e{number}@People.test", role="user")
    for same in (
        f"ren\u00e9e{number}@people.test",
        f"RENE\u0301E{number}@PEOPLE.TEST",
        f" \uff32en\u00e9e{number}@people.test ",
    ):
        with pytest.raises(anthropic.BadRequestError, match=first.id) as caught:
            org.invites.create(email=same, role="user")
        assert caught.value.error_code == "invite_already_exists"
        assert type(caught.value).__name__ == "InviteAlreadyExistsError"
    http.post(f"/x/invites/{first.id}/accept", json={"name": "R"})
    with pytest.raises(anthropic.BadRequestError) as caught:
        org.invites.create(email=f"REN\u00c9E{number}@people.test", role="user")
    assert caught.value.error_code == "already_member"
    found = org.users.list(email=f"REN\u00c9E{number}@PEOPLE.test").data
    assert [u.email for u in found] == [f"Ren\u00e9e{number}@People.test"]
    assert org.users.list(email="no address").data == []


@pytest.mark.parametrize(
    "email",
    [
        "nobody",
        "@x.test",
        "a@",
        "a@localhost",
        "a b@x.test",
        "a\u202eb@x.test",
        "a\u200bb@x.test",
        "a@x..test",
        ".a@x.test",
        "a@1.2.3.4",
        '"a@b"@x.test',
        "a\n@x.test",
        "x" * 65 + "@x.test",
        "a@" + "x" * 64 + ".test",
        "<script>@x.test",
    ],
)
def test_what_is_no_address_is_refused(org: Any, email: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match="email"):
        org.invites.create(email=email, role="user")


def test_a_withdrawn_invite_is_gone_from_the_list(org: Any, http: httpx2.Client) -> None:
    email = address()
    invite = org.invites.create(email=email, role="billing")
    gone = org.invites.delete(invite.id)
    check(gone)
    assert (gone.id, gone.type) == (invite.id, "invite_deleted")
    assert org.invites.retrieve(invite.id).status == "deleted"
    assert org.invites.list(email=email).data == []
    with pytest.raises(anthropic.BadRequestError, match="deleted, not pending"):
        org.invites.delete(invite.id)
    assert http.post(f"/x/invites/{invite.id}/accept", json={"name": "E"}).status_code == 400
    assert org.invites.create(email=email, role="user").id != invite.id
    with pytest.raises(anthropic.NotFoundError):
        org.invites.retrieve("invite_no")


async def test_R027_people_and_invites_walk_both_ways(
    async_client: AsyncAnthropic, org: Any, http: httpx2.Client
) -> None:
    api = async_client.beta.organization
    made = [person(org, http, "claude_code_user") for _ in range(4)]
    ids = [user.id for user in made]
    listed = await api.users.list(limit=2, roles=["claude_code_user"])
    check(listed)
    assert [u.id for u in listed.data] == ids[:1:-1]
    assert (listed.has_more, listed.first_id, listed.last_id) == (True, ids[3], ids[2])
    later = person(org, http, "claude_code_user")  # an insert while somebody walks
    rest = await api.users.list(limit=2, roles=["claude_code_user"], after_id=ids[2])
    assert [u.id for u in rest.data][:2] == [ids[1], ids[0]]
    back = await api.users.list(limit=2, roles=["claude_code_user"], before_id=ids[2])
    assert [u.id for u in back.data] == [later.id, ids[3]]
    walked = [u.id async for u in api.users.list(limit=1, roles=["claude_code_user", "admin"])]
    assert walked[:5] == [later.id, *ids[::-1]]
    pending = [(await api.invites.create(email=address(), role="managed")).id for _ in range(3)]
    walked = [
        i.id async for i in api.invites.list(limit=1, roles=["managed"], statuses=["pending"])
    ]
    assert walked[:3] == pending[::-1]
    assert pending[0] not in [i.id for i in (await api.invites.list(statuses=["accepted"])).data]
    # Whoever leaves while somebody walks does not break the walk.
    await api.users.remove(ids[1])
    after = await api.users.list(limit=1, roles=["claude_code_user"], after_id=ids[1])
    assert [u.id for u in after.data] == [ids[0]]
    await api.invites.delete(pending[1])
    after_invite = await api.invites.list(limit=1, roles=["managed"], after_id=pending[1])
    assert [i.id for i in after_invite.data] == [pending[0]]
    with pytest.raises(anthropic.BadRequestError, match="roles"):
        await api.users.list(roles=["emperor"])
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        await api.users.list(limit=1001)


async def test_R027_members_walk_and_inherited_ones_stay(
    async_client: AsyncAnthropic, org: Any, http: httpx2.Client
) -> None:
    api = async_client.beta.organization.workspaces
    workspace = await api.create(name="W")
    ids = [person(org, http, "user").id for _ in range(3)]
    for user_id in ids:
        await api.members.add(workspace.id, user_id=user_id, workspace_role="workspace_user")
    bill = person(org, http, "billing")
    walked = [m async for m in api.members.list(workspace.id, limit=1)]
    check(walked[0])
    mine = [m.user_id for m in walked if m.user_id in {*ids, bill.id}]
    assert mine == [bill.id, *ids[::-1]]
    assert walked[0].workspace_role == "workspace_billing"
    page = await api.members.list(workspace.id, limit=2, after_id=ids[2])
    assert ([m.user_id for m in page.data], page.first_id) == ([ids[1], ids[0]], ids[1])
    back = await api.members.list(workspace.id, limit=1, before_id=ids[0])
    assert [m.user_id for m in back.data] == [ids[1]]
    with pytest.raises(anthropic.BadRequestError, match="organization's role 'billing'"):
        await api.members.remove(bill.id, workspace_id=workspace.id)
    with pytest.raises(anthropic.BadRequestError, match="organization's role 'billing'"):
        await api.members.update(
            bill.id, workspace_id=workspace.id, workspace_role="workspace_admin"
        )
    same = await api.members.update(
        bill.id, workspace_id=workspace.id, workspace_role="workspace_billing"
    )
    assert same.workspace_role == "workspace_billing"
    everything = [w async for w in api.list(include_default=True)]
    default = next(w.id for w in everything if w.name == "Default")
    shown = await api.members.retrieve(ids[0], workspace_id=default)
    assert shown.workspace_role == "workspace_user"
    for call in (
        api.members.add(default, user_id=ids[0], workspace_role="workspace_admin"),
        api.members.update(ids[0], workspace_id=default, workspace_role="workspace_admin"),
        api.members.remove(ids[0], workspace_id=default),
    ):
        with pytest.raises(anthropic.BadRequestError, match="default workspace"):
            await call


@pytest.mark.parametrize("missing", [True, False])
def test_signing_out_needs_its_beta(
    server: Server, org: Any, http: httpx2.Client, missing: bool
) -> None:
    user = person(org, http, "developer")
    key_id, secret = acting(http, user.id)
    if missing:
        answer = http.post(f"/v1/organizations/users/{user.id}/sign_out")
        assert answer.status_code == 400
        assert "admin-user-sign-out-2026-10-08" in answer.text
        return
    raw = org.users.with_raw_response.sign_out(user.id)
    check(raw.parse())
    assert raw.parse() == org.users.retrieve(user.id)
    # API keys are no sign-in, and the role stays.
    assert org.api_keys.retrieve(key_id).status == "active"
    assert allowed(server, secret) == {"developer"}
    with pytest.raises(anthropic.NotFoundError):
        org.users.sign_out("user_no")


@pytest.mark.rule("R010")
def test_R010_each_family_is_served_with_the_beta_that_the_sdk_sends(
    client: Anthropic, org: Any, http: httpx2.Client
) -> None:
    user = person(org, http)
    families: dict[str, Any] = {
        "mcp-tunnels-2026-06-22": client.beta.tunnels.with_raw_response.list,
        "user-profiles-2026-08-18": client.beta.user_profiles.with_raw_response.list,
        "webhooks-2026-10-07": org.webhooks.with_raw_response.list,
        "telemetry-destinations-2026-08-11": org.telemetry_destinations.with_raw_response.list,
        "spend-limit-reads-2026-09-26": org.spend_limits.with_raw_response.list,
        "admin-user-sign-out-2026-10-08": lambda: org.users.with_raw_response.sign_out(user.id),
    }
    for beta, call in families.items():
        raw = call()
        assert raw.http_request.headers["anthropic-beta"] == beta
        assert raw.status_code == 200
        path = raw.http_request.url.path
        method = raw.http_request.method
        answer = http.request(method, path, headers={"anthropic-beta": f"oauth-2025-04-20, {beta}"})
        assert answer.status_code == 200, (beta, answer.text)


@pytest.mark.rule("R013")
def test_R013_what_a_missing_beta_is_answered_with(org: Any, http: httpx2.Client) -> None:
    user = person(org, http)
    for betas in ({}, {"anthropic-beta": "managed-agents-2026-04-01"}):
        hidden = http.get("/v1/organizations/webhooks", headers=betas)
        assert (hidden.status_code, hidden.json()["error"]["type"]) == (404, "not_found_error")
        refused = http.post(f"/v1/organizations/users/{user.id}/sign_out", headers=betas)
        assert refused.status_code == 400
        assert refused.json()["error"]["type"] == "invalid_request_error"
    assert http.get("/v1/organizations/webhooks", headers=WEBHOOKS).status_code == 200


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x00b", "a\u202eb", "a\u2028b", "x" * 256])
def test_names_stay_in_their_line(org: Any, http: httpx2.Client, name: str) -> None:
    invite = org.invites.create(email=address(), role="user")
    answer = http.post(f"/x/invites/{invite.id}/accept", json={"name": name})
    assert answer.status_code == 400, answer.text
    assert org.invites.retrieve(invite.id).status == "pending"


def test_names_that_look_like_code_are_only_names(org: Any, http: httpx2.Client) -> None:
    for name in ("'; DROP TABLE users; --", "<b>x</b>", "{{7*7}}", "شاهين", "O\u2019Neill-👩‍🚀"):
        invite = org.invites.create(email=address(), role="user")
        made = http.post(f"/x/invites/{invite.id}/accept", json={"name": name}).json()
        assert org.users.retrieve(made["id"]).name == name


async def test_races_leave_one_invite_and_one_member(
    async_client: AsyncAnthropic, server: Server
) -> None:
    api = async_client.beta.organization
    email, made, refused = address(), [], []

    async def invite(spelling: str) -> None:
        try:
            made.append((await api.invites.create(email=spelling, role="user")).id)
        except anthropic.BadRequestError as error:
            refused.append(error.error_code)

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(invite, email.upper() if number % 2 else email)
    assert (len(made), refused) == (1, ["invite_already_exists"] * 11)
    statuses: list[int] = []

    async def accept(http: httpx2.AsyncClient) -> None:
        answer = await http.post(f"/x/invites/{made[0]}/accept", json={"name": "R"})
        statuses.append(answer.status_code)

    headers = {"x-api-key": server.api_key}
    async with (
        httpx2.AsyncClient(base_url=server.base_url, headers=headers) as http,
        anyio.create_task_group() as group,
    ):
        for _ in range(8):
            group.start_soon(accept, http)
    assert sorted(statuses) == [200] + [400] * 7
    assert len((await api.users.list(email=email)).data) == 1
