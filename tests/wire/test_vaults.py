"""Vaults and credentials through the official SDK, sync and async."""

import json
from datetime import timedelta
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types.beta import BetaManagedAgentsVault

from intramuros.kernel.timing import SystemClock
from tests.wire.site import BETA, Site
from tests.wire.structure import check

pytestmark = pytest.mark.anyio

LATER = SystemClock().now().replace(microsecond=0) + timedelta(days=30)


def bearer(url: str = "https://mcp.example.com/mcp", token: str = "t0ken") -> Any:
    return {"type": "static_bearer", "mcp_server_url": url, "token": token}


def oauth(url: str = "https://mcp.example.com/oauth", **more: Any) -> Any:
    return {"type": "mcp_oauth", "mcp_server_url": url, "access_token": "acc", **more}


def refresh(auth: str = "client_secret_post", **more: Any) -> Any:
    secret = {} if auth == "none" else {"client_secret": "cs"}
    return {
        "client_id": "client",
        "refresh_token": "rt",
        "token_endpoint": "https://login.example.com/token",
        "token_endpoint_auth": {"type": auth, **secret},
        **more,
    }


def variable(name: str = "API_KEY", **more: Any) -> Any:
    networking = {"type": "limited", "allowed_hosts": ["api.example.com", "*.example.org"]}
    return {
        "type": "environment_variable",
        "secret_name": name,
        "secret_value": "value",
        "networking": networking,
        **more,
    }


@pytest.fixture
def vault(client: Anthropic) -> BetaManagedAgentsVault:
    return client.beta.vaults.create(display_name="Keys", metadata={"team": "a"})


def test_R034_R035_R005_a_vaults_life(client: Anthropic) -> None:
    vaults = client.beta.vaults
    made = vaults.create(display_name="Keys")
    check(made)
    assert (made.id[:4], made.type, made.metadata) == ("vlt_", "vault", {})
    assert vaults.retrieve(made.id) == made
    raw = vaults.with_raw_response.retrieve(made.id)
    assert json.loads(raw.text())["archived_at"] is None
    changed = vaults.update(made.id, display_name="New", metadata={"a": "1", "b": "2"})
    check(changed)
    again = vaults.update(made.id, metadata={"a": None})
    assert (again.display_name, again.metadata) == ("New", {"b": "2"})
    gone = vaults.delete(made.id)
    check(gone)
    assert (gone.id, gone.type) == (made.id, "vault_deleted")
    with pytest.raises(anthropic.NotFoundError):
        vaults.retrieve(made.id)


async def test_R034_R035_a_vaults_life_async(async_client: AsyncAnthropic) -> None:
    vaults = async_client.beta.vaults
    made = await vaults.create(display_name="Keys")
    check(made)
    assert (await vaults.update(made.id, display_name="B")).display_name == "B"
    check(await vaults.archive(made.id))
    assert made.id in [v.id async for v in vaults.list(include_archived=True, limit=2)]
    check(await vaults.delete(made.id))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "display_name"),
        ({"display_name": ""}, "display_name"),
        ({"display_name": "x" * 256}, "display_name"),
        ({"display_name": "x", "owner": "me"}, "owner"),
        ({"display_name": "x", "metadata": {"k" * 65: "v"}}, "metadata"),
    ],
)
def test_R034_R029_bad_vaults_are_refused(site: Site, body: Any, field: str) -> None:
    answer = site.http.post("/v1/vaults", json=body)
    assert (answer.status_code, field in answer.json()["error"]["message"]) == (400, True)


def test_R005_the_beta_header_is_needed(site: Site) -> None:
    headers = {"anthropic-beta": ""}
    assert site.http.get("/v1/vaults", headers=headers).status_code == 400


def test_R036_lists_are_newest_first_and_hide_archived(client: Anthropic) -> None:
    made = [client.beta.vaults.create(display_name=f"v{i}").id for i in range(3)]
    client.beta.vaults.archive(made[1])
    listed = [v.id for v in client.beta.vaults.list(limit=1) if v.id in made]
    assert listed == [made[2], made[0]]
    everything = client.beta.vaults.list(include_archived=True, limit=100)
    check(everything)
    assert [v.id for v in everything if v.id in made] == made[::-1]
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        client.beta.vaults.list(limit=101)


def test_R037_unknown_vaults_are_not_found(client: Anthropic, site: Site) -> None:
    for refused in (
        lambda: client.beta.vaults.retrieve("vlt_nobodys"),
        lambda: client.beta.vaults.credentials.list("vlt_nobodys"),
        lambda: client.beta.vaults.credentials.create("vlt_nobodys", auth=bearer()),
        lambda: site.session(vault_ids=["vlt_nobodys"]),
    ):
        with pytest.raises(anthropic.NotFoundError, match="vlt_nobodys"):
            refused()


def test_R038_Q07_archive_cascades_and_keeps_records_readable(client: Anthropic) -> None:
    vaults = client.beta.vaults
    made = vaults.create(display_name="Old")
    held = vaults.credentials.create(made.id, auth=bearer())
    archived = vaults.archive(made.id)
    check(archived)
    assert archived.archived_at is not None
    assert vaults.archive(made.id) == archived
    read = vaults.credentials.retrieve(held.id, vault_id=made.id)
    assert read.archived_at is not None
    assert getattr(read.auth, "mcp_server_url", None) == "https://mcp.example.com/mcp"
    for refused in (
        lambda: vaults.update(made.id, display_name="x"),
        lambda: vaults.credentials.create(made.id, auth=bearer("https://b.example.com")),
        lambda: vaults.credentials.update(held.id, vault_id=made.id, display_name="x"),
    ):
        with pytest.raises(anthropic.BadRequestError, match="archived"):
            refused()


def test_R039_delete_takes_the_credentials_along(client: Anthropic) -> None:
    vaults = client.beta.vaults
    made = vaults.create(display_name="Gone")
    kept = vaults.credentials.create(made.id, auth=bearer())
    vaults.credentials.archive(kept.id, vault_id=made.id)
    vaults.credentials.create(made.id, auth=bearer())
    vaults.delete(made.id)
    with pytest.raises(anthropic.NotFoundError):
        vaults.credentials.retrieve(kept.id, vault_id=made.id)


def test_R040_R041_sessions_take_active_vaults_once(
    client: Anthropic, site: Site, vault: BetaManagedAgentsVault
) -> None:
    other = client.beta.vaults.create(display_name="Other")
    session = site.session(vault_ids=[other.id, vault.id, other.id])
    assert session.vault_ids == [other.id, vault.id]
    client.beta.vaults.archive(vault.id)
    assert client.beta.sessions.retrieve(session.id).vault_ids == [other.id, vault.id]
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        site.session(vault_ids=[vault.id])
    with pytest.raises(anthropic.BadRequestError, match="vault_ids"):
        client.beta.sessions.update(session.id, vault_ids=[other.id])


def test_R043_R044_R060_a_credentials_life(
    client: Anthropic, vault: BetaManagedAgentsVault
) -> None:
    credentials = client.beta.vaults.credentials
    made = credentials.create(vault.id, auth=bearer(), metadata={"k": "v"})
    check(made)
    assert (made.id[:5], made.type, made.vault_id) == ("vcrd_", "vault_credential", vault.id)
    assert (made.display_name, made.metadata) == (None, {"k": "v"})
    assert made.auth.to_dict() == {
        "type": "static_bearer",
        "mcp_server_url": "https://mcp.example.com/mcp",
    }
    assert credentials.retrieve(made.id, vault_id=vault.id) == made
    named = credentials.update(made.id, vault_id=vault.id, display_name="N", metadata={"k": None})
    check(named)
    assert (named.display_name, named.metadata) == ("N", {})
    unnamed = credentials.update(made.id, vault_id=vault.id, display_name=None)
    assert unnamed.display_name is None
    assert [c.id for c in credentials.list(vault.id, limit=1)] == [made.id]
    archived = credentials.archive(made.id, vault_id=vault.id)
    check(archived)
    assert [c.id for c in credentials.list(vault.id)] == []
    assert [c.id for c in credentials.list(vault.id, include_archived=True)] == [made.id]
    gone = credentials.delete(made.id, vault_id=vault.id)
    check(gone)
    assert (gone.id, gone.type) == (made.id, "vault_credential_deleted")


async def test_R043_a_credentials_life_async(
    async_client: AsyncAnthropic, vault: BetaManagedAgentsVault
) -> None:
    credentials = async_client.beta.vaults.credentials
    made = await credentials.create(vault.id, auth=variable())
    check(made)
    changed = await credentials.update(made.id, vault_id=vault.id, auth=_update(secret_value="z"))
    assert changed.updated_at >= made.updated_at
    assert [c.id async for c in credentials.list(vault.id)] == [made.id]
    check(await credentials.archive(made.id, vault_id=vault.id))
    check(await credentials.delete(made.id, vault_id=vault.id))


def _update(type: str = "environment_variable", **more: Any) -> Any:
    return {"type": type, **more}


def test_R045_Q09_a_vault_holds_twenty_active_credentials(
    client: Anthropic, vault: BetaManagedAgentsVault
) -> None:
    credentials = client.beta.vaults.credentials
    made = [
        credentials.create(vault.id, auth=bearer(f"https://{i}.example.com")) for i in range(20)
    ]
    with pytest.raises(anthropic.BadRequestError, match="at most 20"):
        credentials.create(vault.id, auth=variable())
    credentials.archive(made[0].id, vault_id=vault.id)
    credentials.create(vault.id, auth=variable())


def test_R046_R047_Q06_two_active_credentials_share_no_key(
    client: Anthropic, vault: BetaManagedAgentsVault
) -> None:
    credentials = client.beta.vaults.credentials
    first = credentials.create(vault.id, auth=bearer("https://MCP.example.com:443/a/"))
    credentials.create(vault.id, auth=variable("NAME"))
    for twin in (bearer("https://mcp.example.com/a"), oauth("https://mcp.example.com/a//")):
        with pytest.raises(anthropic.ConflictError) as refused:
            credentials.create(vault.id, auth=twin)
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert refused.value.body["error"]["type"] == "conflict_error"  # type: ignore[index]  # a dict
    with pytest.raises(anthropic.ConflictError, match="NAME"):
        credentials.create(vault.id, auth=variable("NAME"))
    credentials.archive(first.id, vault_id=vault.id)
    assert credentials.create(vault.id, auth=oauth("https://mcp.example.com/a")).id != first.id


def test_R050_the_type_must_be_the_stored_one(
    client: Anthropic, site: Site, vault: BetaManagedAgentsVault
) -> None:
    made = client.beta.vaults.credentials.create(vault.id, auth=bearer())
    with pytest.raises(anthropic.BadRequestError, match=r"auth\.type"):
        client.beta.vaults.credentials.update(
            made.id, vault_id=vault.id, auth=_update("mcp_oauth", access_token="x")
        )
    path = f"/v1/vaults/{vault.id}/credentials/{made.id}"
    answer = site.http.post(path, json={"auth": {"token": "x"}})
    assert (answer.status_code, "type" in answer.json()["error"]["message"]) == (400, True)


def test_R051_R057_what_cannot_change_is_refused(site: Site, vault: BetaManagedAgentsVault) -> None:
    credentials = site.api.beta.vaults.credentials
    token = credentials.create(vault.id, auth=oauth(refresh=refresh()))
    name = credentials.create(vault.id, auth=variable())
    for made, auth, field in (
        (token, _update("mcp_oauth", mcp_server_url="https://other.example"), "mcp_server_url"),
        (token, _update("mcp_oauth", refresh={"client_id": "x"}), "client_id"),
        (token, _update("mcp_oauth", refresh={"token_endpoint": "https://x"}), "token_endpoint"),
        (token, _update("mcp_oauth", refresh={"resource": "x"}), "resource"),
        (name, _update(secret_name="OTHER"), "secret_name"),
    ):
        path = f"/v1/vaults/{vault.id}/credentials/{made.id}"
        answer = site.http.post(path, json={"auth": auth})
        assert (answer.status_code, field in answer.json()["error"]["message"]) == (400, True)


def test_R052_R054_R060_oauth_credentials_show_their_settings(
    client: Anthropic, vault: BetaManagedAgentsVault
) -> None:
    credentials = client.beta.vaults.credentials
    plain = credentials.create(vault.id, auth=oauth("https://plain.example"))
    check(plain)
    assert plain.auth.to_dict() == {
        "type": "mcp_oauth",
        "mcp_server_url": "https://plain.example",
        "expires_at": None,
        "refresh": None,
    }
    full = oauth(expires_at=LATER, refresh=refresh(scope="read", resource="https://r.example"))
    made = credentials.create(vault.id, auth=full)
    check(made)
    auth: Any = made.auth
    assert auth.expires_at == LATER
    assert auth.refresh.to_dict() == {
        "client_id": "client",
        "token_endpoint": "https://login.example.com/token",
        "token_endpoint_auth": {"type": "client_secret_post"},
        "resource": "https://r.example",
        "scope": "read",
    }


@pytest.mark.parametrize(
    ("auth", "field"),
    [
        ({"type": "mcp_oauth", "mcp_server_url": "https://a.example"}, "access_token"),
        ({"type": "mcp_oauth", "access_token": "x"}, "mcp_server_url"),
        (oauth("ftp://a.example"), "mcp_server_url"),
        (oauth("https://me:pw@a.example"), "mcp_server_url"),
        (oauth(access_token="a b"), "access_token"),
        (oauth(expires_at="2020-01-01T00:00:00Z"), "expires_at"),
        (oauth(expires_at="tomorrow"), "expires_at"),
        (oauth(refresh={"client_id": "c"}), "refresh_token"),
        (oauth(refresh={**refresh(), "token_endpoint_auth": {"type": "none", "x": 1}}), "x"),
        (
            oauth(refresh={**refresh(), "token_endpoint_auth": {"type": "client_secret_basic"}}),
            "client_secret",
        ),
        (oauth(refresh={**refresh(), "token_endpoint_auth": {"type": "jwt"}}), "auth"),
        ({"type": "static_bearer", "token": "x"}, "mcp_server_url"),
        ({"type": "environment_variable", "secret_name": "A", "secret_value": "b"}, "networking"),
        (variable("1A"), "secret_name"),
        (variable(networking={"type": "limited", "allowed_hosts": ["a.b"] * 17}), "allowed_hosts"),
        (variable(networking={"type": "limited", "allowed_hosts": ["http://a.b"]}), "host"),
        (variable(networking={"type": "limited", "allowed_hosts": ["a.b:80"]}), "host"),
        (variable(networking={"type": "limited", "allowed_hosts": ["a.b/c"]}), "host"),
        (variable(networking={"type": "limited", "allowed_hosts": ["::1"]}), "host"),
        (variable(networking={"type": "some"}), "networking"),
        (variable(injection_location={"header": False}), "injection_location"),
        (variable(injection_location=None), "injection_location"),
        (variable(injection_location={"header": None}), "header"),
        ({"type": "password"}, "auth"),
    ],
)
def test_R052_R053_R054_R055_R061_R063_R068_bad_credentials_are_refused(
    site: Site, vault: BetaManagedAgentsVault, auth: Any, field: str
) -> None:
    answer = site.http.post(f"/v1/vaults/{vault.id}/credentials", json={"auth": auth})
    message = answer.json()["error"]["message"]
    assert (answer.status_code, field in message) == (400, True), message


@pytest.mark.parametrize("auth", ["none", "client_secret_basic", "client_secret_post"])
def test_R055_each_kind_of_client_authentication(
    client: Anthropic, vault: BetaManagedAgentsVault, auth: str
) -> None:
    made = client.beta.vaults.credentials.create(vault.id, auth=oauth(refresh=refresh(auth)))
    shown: Any = made.auth
    assert shown.refresh.token_endpoint_auth.to_dict() == {"type": auth}


def test_R056_R058_R059_oauth_updates(client: Anthropic, vault: BetaManagedAgentsVault) -> None:
    credentials = client.beta.vaults.credentials
    made = credentials.create(vault.id, auth=oauth(expires_at=LATER, refresh=refresh(scope="read")))

    def change(**auth: Any) -> Any:
        answer = credentials.update(made.id, vault_id=vault.id, auth=_update("mcp_oauth", **auth))
        check(answer)
        return answer.auth

    assert change(access_token="new").expires_at == LATER
    assert change(refresh={"refresh_token": "new"}).refresh.scope == "read"
    assert change(refresh={"scope": "write"}).refresh.scope == "write"
    assert change(refresh={"scope": ""}).refresh.scope is None
    other = {"type": "client_secret_basic", "client_secret": "new"}
    kept = change(refresh={"token_endpoint_auth": other}).refresh.token_endpoint_auth
    assert kept.type == "client_secret_post"
    with pytest.raises(anthropic.BadRequestError, match="expires_at"):
        change(expires_at="2020-01-01T00:00:00Z")
    public = credentials.create(vault.id, auth=oauth("https://p.example", refresh=refresh("none")))
    with pytest.raises(anthropic.BadRequestError, match="no client secret"):
        credentials.update(
            public.id,
            vault_id=vault.id,
            auth=_update("mcp_oauth", refresh={"token_endpoint_auth": other}),
        )
    bare = credentials.create(vault.id, auth=oauth("https://bare.example"))
    with pytest.raises(anthropic.BadRequestError, match="without refresh"):
        credentials.update(
            bare.id, vault_id=vault.id, auth=_update("mcp_oauth", refresh={"scope": "x"})
        )


def test_R061_R062_R065_R066_R067_R069_environment_variables(
    client: Anthropic, vault: BetaManagedAgentsVault
) -> None:
    credentials = client.beta.vaults.credentials
    made = credentials.create(vault.id, auth=variable())
    check(made)
    assert made.auth.to_dict() == {
        "type": "environment_variable",
        "secret_name": "API_KEY",
        "networking": {"type": "limited", "allowed_hosts": ["api.example.com", "*.example.org"]},
        "injection_location": {"header": True, "body": True},
    }

    def change(**auth: Any) -> Any:
        answer = credentials.update(made.id, vault_id=vault.id, auth=_update(**auth))
        check(answer)
        return answer.auth

    places = change(injection_location={"body": False}).injection_location
    assert (places.header, places.body) == (True, False)
    with pytest.raises(anthropic.BadRequestError, match="injection_location"):
        change(injection_location={"header": False})
    for null in (None, {"body": None}):
        with pytest.raises(anthropic.BadRequestError, match="injection_location"):
            change(injection_location=null)
    everywhere = change(networking={"type": "unrestricted"})
    assert everywhere.networking.to_dict() == {"type": "unrestricted"}
    header_only = credentials.create(
        vault.id, auth=variable("B", injection_location={"header": True})
    )
    shown: Any = header_only.auth
    assert (shown.injection_location.header, shown.injection_location.body) == (True, False)


def test_R049_R074_R075_Q12_variables_on_self_hosted_are_taken_and_said_to_stay_unset(
    client: Anthropic, site: Site, vault: BetaManagedAgentsVault
) -> None:
    made = client.beta.vaults.credentials.create(vault.id, auth=variable())
    session = site.session(vault_ids=[vault.id])
    [told] = [e for e in site.events(session.id) if e.type == "session.error"]
    check(told, nullable=False)
    assert told.error.type == "credential_host_unreachable_error"
    assert (told.error.credential_id, told.error.vault_id) == (made.id, vault.id)
    assert "API_KEY stays unset" in told.error.message
    site.api.beta.sessions.events.send(session.id, events=[_message()])
    assert site.wait(session.id, "session.status_idle")[-1].type == "session.status_idle"


def _message() -> Any:
    return {"type": "user.message", "content": [{"type": "text", "text": "go"}]}


def test_R073_R074_hosts_that_the_environment_forbids_are_told(
    client: Anthropic, site: Site, vault: BetaManagedAgentsVault
) -> None:
    made = client.beta.vaults.credentials.create(vault.id, auth=variable())
    networking = {"type": "limited", "allowed_hosts": ["api.example.com"]}
    config: Any = {"type": "cloud", "networking": networking}
    environment = client.beta.environments.create(name="narrow", config=config)
    session = site.session(environment_id=environment.id, vault_ids=[vault.id])
    [told] = [e for e in site.events(session.id) if e.type == "session.error"]
    assert (told.error.credential_id, "*.example.org" in told.error.message) == (made.id, True)
    client.beta.vaults.credentials.update(
        made.id,
        vault_id=vault.id,
        auth=_update(networking={"type": "limited", "allowed_hosts": ["api.example.com"]}),
    )
    fine = site.session(environment_id=environment.id, vault_ids=[vault.id])
    assert "session.error" not in site.types(fine.id)


def test_R002_other_kinds_of_keys_see_no_vaults(site: Site, vault: BetaManagedAgentsVault) -> None:
    answer = httpx2.get(
        f"{site.server.base_url}/v1/vaults/{vault.id}",
        headers={"authorization": f"Bearer {site.key}", **BETA},
    )
    assert answer.status_code == 403
