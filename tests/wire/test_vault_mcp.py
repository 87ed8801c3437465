"""Credentials on their way to a real MCP server that demands them, with the official SDK."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from intramuros.kernel.timing import SystemClock
from tests.engines import opened
from tests.fakes.guarded_mcp import Guarded, guarded_mcp
from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.site import MESSAGE, Site
from tests.wire.structure import check

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may reach loopback, as an operator's own network."""
    data_dir = tmp_path_factory.mktemp("vaults") / "data"
    settings = {"model_scripts": str(SCRIPTS), "mcp_networks": ["127.0.0.0/8"]}
    with running(data_dir, **settings) as started:
        yield started


@pytest.fixture
def mcp() -> Iterator[Guarded]:
    with guarded_mcp() as guarded:
        yield guarded


def vault(api: Anthropic, auth: Any) -> tuple[str, str]:
    made = api.beta.vaults.create(display_name="V")
    return made.id, api.beta.vaults.credentials.create(made.id, auth=auth).id


def bearer(mcp: Guarded, token: str) -> Any:
    return {"type": "static_bearer", "mcp_server_url": mcp.url, "token": token}


def oauth(mcp: Guarded, *, expires_s: float | None = None, **refresh: Any) -> Any:
    auth = {"type": "client_secret_post", "client_secret": "cs"}
    block = {
        "client_id": "client",
        "refresh_token": "refresh-0",
        "token_endpoint": mcp.token_endpoint,
        "token_endpoint_auth": auth,
        **refresh,
    }
    expires_at = None
    if expires_s is not None:
        expires_at = SystemClock().now() + timedelta(seconds=expires_s)
    return {
        "type": "mcp_oauth",
        "mcp_server_url": mcp.url,
        "access_token": "access-0",
        "expires_at": expires_at,
        "refresh": block,
    }


def agent(site: Site, url: str, script: str = "ledger") -> str:
    tools: Any = [
        {
            "type": "mcp_toolset",
            "mcp_server_name": "ledger",
            "default_config": {"permission_policy": {"type": "always_allow"}},
        }
    ]
    servers: Any = [{"type": "url", "name": "ledger", "url": url}]
    made = site.api.beta.agents.create(
        name="A", model=f"scripted/{script}", tools=tools, mcp_servers=servers
    )
    return made.id


def talk(site: Site, url: str, vault_ids: list[str], script: str = "ledger") -> str:
    session = site.api.beta.sessions.create(
        agent=agent(site, url, script), environment_id=site.environment_id, vault_ids=vault_ids
    )
    return say(site, session.id)


def say(site: Site, session_id: str) -> str:
    """Play one turn to its end."""
    before = site.types(session_id).count("session.status_idle")
    site.api.beta.sessions.events.send(session_id, events=[MESSAGE])
    site.wait(session_id, "session.status_idle", before + 1)
    return session_id


def said(site: Site, session_id: str) -> str:
    messages = [e for e in site.events(session_id) if e.type == "agent.message"]
    return str(messages[-1].content[0].text) if messages else ""


def errors(site: Site, session_id: str) -> list[Any]:
    found = [e for e in site.events(session_id) if e.type == "session.error"]
    for event in found:
        check(event, nullable=False)
    return [event.error for event in found]


def records(server: Server, kind: str, *, session_id: str | None = None) -> list[dict[str, Any]]:
    with opened(server.data_dir) as db:
        lines = db.execute("SELECT line FROM audit WHERE kind = ? ORDER BY seq", (kind,))
        found = [json.loads(line) for (line,) in lines]
    fields = [record.get("fields", record) for record in found]
    return [f for f in fields if session_id is None or f.get("session_id") == session_id]


def test_R076_R078_R113_a_bearer_reaches_its_server(site: Site, mcp: Guarded) -> None:
    mcp.tokens = {"good"}
    empty = site.api.beta.vaults.create(display_name="Empty").id
    first, credential = vault(site.api, bearer(mcp, "good"))
    second, _ = vault(site.api, bearer(mcp, "other"))
    session = talk(site, mcp.url.replace("http", "HTTP") + "/", [empty, first, second])
    assert said(site, session) == "The ledger says 42."
    assert errors(site, session) == []
    assert set(mcp.seen) == {"good"}
    [used] = records(site.server, "secret.use", session_id=session)
    assert (used["credential_id"], used["vault_id"]) == (credential, first)
    assert (used["host"], used["server"]) == ("127.0.0.1", "ledger")
    assert "good" not in json.dumps(used)


def test_R077_R079_no_match_means_no_credential(site: Site, mcp: Guarded) -> None:
    mcp.tokens = {"good"}
    other = {"type": "static_bearer", "mcp_server_url": mcp.url + "/deeper", "token": "good"}
    held, _ = vault(site.api, other)
    session = talk(site, mcp.url, [held])
    [error] = errors(site, session)
    assert (error.type, error.mcp_server_name) == ("mcp_authentication_failed_error", "ledger")
    assert mcp.seen == []
    assert site.api.beta.sessions.retrieve(session).status == "idle"


def test_R049_R081_R103_R105_a_refused_token_can_be_replaced_in_the_session(
    site: Site, mcp: Guarded
) -> None:
    mcp.tokens = {"good"}
    held, credential = vault(site.api, bearer(mcp, "bad"))
    session = talk(site, mcp.url, [held])
    [error] = errors(site, session)
    assert (error.type, error.retry_status.type) == ("mcp_authentication_failed_error", "retrying")
    fresh: Any = {"type": "static_bearer", "token": "good"}
    site.api.beta.vaults.credentials.update(credential, vault_id=held, auth=fresh)
    say(site, session)
    assert said(site, session) == "The ledger says 42."
    # Archived, it is not used any more, even though the session goes on.
    site.api.beta.vaults.archive(held)
    mcp.seen.clear()
    say(site, session)
    assert mcp.seen == []
    assert len(errors(site, session)) == 2


def test_R082_Q10_an_expiring_token_is_refreshed_before_use(site: Site, mcp: Guarded) -> None:
    mcp.refresh_tokens = {"refresh-0"}
    held, credential = vault(
        site.api, oauth(mcp, expires_s=30, scope="read", resource="https://ledger.test")
    )
    session = talk(site, mcp.url, [held])
    assert said(site, session) == "The ledger says 42."
    assert (set(mcp.seen), len(mcp.grants)) == ({"access-1"}, 1)
    assert mcp.grants[0] == {
        "grant_type": "refresh_token",
        "refresh_token": "refresh-0",
        "scope": "read",
        "resource": "https://ledger.test",
        "client_id": "client",
        "client_secret": "cs",
    }
    shown: Any = site.api.beta.vaults.credentials.retrieve(credential, vault_id=held).auth
    left = shown.expires_at - SystemClock().now()
    assert timedelta(minutes=55) < left < timedelta(minutes=61)
    say(site, session)
    assert len(mcp.grants) == 1
    # The refresh token was replaced, and the new one is what the next refresh sends.
    mcp.tokens.clear()
    say(site, session)
    assert mcp.grants[1]["refresh_token"] == "refresh-1"
    assert (mcp.seen[-1], errors(site, session)) == ("access-2", [])


def test_Q10_many_sessions_refresh_once(site: Site, mcp: Guarded) -> None:
    mcp.refresh_tokens, mcp.delay_s = {"refresh-0"}, 0.5
    held, _ = vault(site.api, oauth(mcp, expires_s=5))
    agent_id = agent(site, mcp.url)
    sessions = [
        site.api.beta.sessions.create(
            agent=agent_id,
            environment_id=site.environment_id,
            vault_ids=[held],
            initial_events=[MESSAGE],
        ).id
        for _ in range(6)
    ]
    for session in sessions:
        site.wait(session, "session.status_idle")
        assert said(site, session) == "The ledger says 42."
    assert len(mcp.grants) == 1


def test_R084_Q10_a_lost_grant_stops_until_the_credential_is_updated(
    site: Site, mcp: Guarded
) -> None:
    held, credential = vault(site.api, oauth(mcp, expires_s=1))
    session = talk(site, mcp.url, [held])
    [error] = errors(site, session)
    assert error.type == "mcp_authentication_failed_error"
    assert "invalid_grant" in error.message
    say(site, session)
    assert len(errors(site, session)) == 2
    assert len(mcp.grants) == 1
    failed = records(site.server, "vault_credential.refresh_failed", session_id=session)
    assert [record["id"] for record in failed] == [credential]
    mcp.refresh_tokens = {"new"}
    fresh: Any = {"type": "mcp_oauth", "refresh": {"refresh_token": "new"}}
    site.api.beta.vaults.credentials.update(credential, vault_id=held, auth=fresh)
    say(site, session)
    assert (mcp.seen[-1], len(errors(site, session))) == ("access-2", 2)


def test_R055_R084_basic_authentication_and_a_broken_endpoint(site: Site, mcp: Guarded) -> None:
    mcp.refresh_tokens, mcp.client_secret, mcp.status = {"refresh-0"}, "a:b c", 503
    basic = {"type": "client_secret_basic", "client_secret": "a:b c"}
    held, _ = vault(site.api, oauth(mcp, expires_s=1, client_id="me@x", token_endpoint_auth=basic))
    session = talk(site, mcp.url, [held])
    assert "HTTP 503" in errors(site, session)[0].message
    mcp.status = None
    say(site, session)
    assert said(site, session) == "The ledger says 42."
    assert "client_secret" not in mcp.grants[-1]
    assert mcp.basic[-1] == "me@x"


async def test_R085_R088_validation(
    async_client: AsyncAnthropic, mcp: Guarded, client: Anthropic
) -> None:
    mcp.tokens = {"access-0"}
    held, credential = vault(client, oauth(mcp))
    credentials = async_client.beta.vaults.credentials
    found = await credentials.mcp_oauth_validate(credential, vault_id=held)
    check(found)
    assert (found.type, found.status) == ("vault_credential_validation", "valid")
    assert (found.mcp_probe, found.refresh, found.has_refresh_token) == (None, None, True)
    assert (found.credential_id, found.vault_id) == (credential, held)


def test_R086_R090_R091_R092_validation_refreshes_after_a_401(
    client: Anthropic, mcp: Guarded
) -> None:
    mcp.refresh_tokens = {"refresh-0"}
    held, credential = vault(client, oauth(mcp))
    validate = client.beta.vaults.credentials.mcp_oauth_validate
    found = validate(credential, vault_id=held)
    check(found)
    assert found.refresh is not None
    assert (found.status, found.mcp_probe, found.refresh.status) == ("valid", None, "succeeded")
    assert found.refresh.http_response is None
    mcp.tokens, mcp.refresh_tokens = set(), set()
    found = validate(credential, vault_id=held)
    check(found)
    assert found.refresh is not None
    assert found.mcp_probe is not None
    assert (found.status, found.refresh.status) == ("invalid", "failed")
    assert found.mcp_probe.method == "initialize"
    assert found.mcp_probe.http_response is not None
    assert found.mcp_probe.http_response.status_code == 401
    said = found.refresh.http_response
    assert said is not None
    assert (said.status_code, "invalid_grant" in said.body) == (400, True)
    assert "refresh-1" not in said.body
    assert "[masked]" in said.body


def test_R087_R089_R091_validation_without_a_verdict(client: Anthropic, mcp: Guarded) -> None:
    validate = client.beta.vaults.credentials.mcp_oauth_validate
    held, credential = vault(client, oauth(mcp))
    mcp.status = 500
    found = validate(credential, vault_id=held)
    check(found)
    assert found.refresh is not None
    assert (found.status, found.refresh.status) == ("unknown", "failed")
    mcp.status = 429
    assert validate(credential, vault_id=held).status == "unknown"
    mcp.status = 403
    assert validate(credential, vault_id=held).status == "invalid"
    away: Any = {**oauth(mcp, token_endpoint="http://127.0.0.1:9/token")}
    held, credential = vault(client, away)
    found = validate(credential, vault_id=held)
    assert found.refresh is not None
    assert (found.status, found.refresh.status) == ("unknown", "connect_error")
    assert found.refresh.http_response is None
    held, credential = vault(client, {**oauth(mcp), "refresh": None})
    found = validate(credential, vault_id=held)
    check(found)
    assert found.refresh is not None
    assert (found.status, found.refresh.status) == ("invalid", "no_refresh_token")
    held, credential = vault(client, {**oauth(mcp), "mcp_server_url": "http://127.0.0.1:9/mcp"})
    found = validate(credential, vault_id=held)
    check(found)
    assert found.mcp_probe is not None
    assert (found.status, found.refresh, found.mcp_probe.http_response) == ("unknown", None, None)
    held, credential = vault(client, {**oauth(mcp), "mcp_server_url": "https://\u2603.example/mcp"})
    assert validate(credential, vault_id=held).status == "unknown"


def test_Q07_Q08_what_cannot_be_validated(client: Anthropic, mcp: Guarded) -> None:
    validate = client.beta.vaults.credentials.mcp_oauth_validate
    held, credential = vault(client, bearer(mcp, "x"))
    with pytest.raises(anthropic.BadRequestError, match="mcp_oauth"):
        validate(credential, vault_id=held)
    held, credential = vault(client, oauth(mcp))
    client.beta.vaults.credentials.archive(credential, vault_id=held)
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        validate(credential, vault_id=held)
