"""Sessions, people, vaults and private servers, every program real, through the tunnel."""

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from anthropic import Anthropic, BadRequestError
from anyio.from_thread import start_blocking_portal
from mcp.shared.auth import OAuthClientInformationFull
from pydantic import AnyUrl

from intramuros.kernel.timing import SystemClock
from tests.fakes.oauth_server import Authority
from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.perimeter import Edge, Later, Perimeter, perimeter, serving
from tests.wire.site import MESSAGE, Site
from tests.wire.test_people import acting, person
from tests.wire.test_vault_mcp import agent, errors, records, said, say, talk

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(240)

CLIENT = OAuthClientInformationFull(
    client_id="console",
    client_secret="planted-client-secret",
    redirect_uris=[AnyUrl("http://127.0.0.1:1/back")],
    token_endpoint_auth_method="client_secret_post",
)

# Keys of nobody may do everything; people what a test adds.
FOR_KEYS = "permit(principal is Key, action, resource);"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Edge:
    return Edge(tmp_path_factory.mktemp("edge"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, edge: Edge) -> Iterator[Server]:
    data_dir = tmp_path_factory.mktemp("tunnelled") / "data"
    with running(data_dir, model_scripts=str(SCRIPTS), **edge.settings) as started:
        yield started


@pytest.fixture(scope="module")
def private(
    server: Server, edge: Edge, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Authority, Perimeter]]:
    """An authorization server and an MCP server that trusts it, both behind the tunnel alone."""
    authority, auth, ledger = Authority(), Later(), Later()
    authority.clients["console"] = CLIENT
    home: Path = tmp_path_factory.mktemp("gateway") / "files"
    with (
        start_blocking_portal() as portal,
        serving(portal, {"auth": auth, "ledger": ledger}) as ports,
        perimeter(server, edge, ports, home, FOR_KEYS) as around,
    ):
        issuer, resource = around.url("auth", ""), around.url("ledger")
        auth.app = authority.app(issuer, "https://login.example")
        mcp = authority.resource(issuer, resource)
        ledger.app = mcp.streamable_http_app()
        running_sessions = portal.wrap_async_context_manager(mcp.session_manager.run())
        with running_sessions:
            yield authority, around


def held(api: Anthropic, authority: Authority, around: Perimeter, left_s: float) -> tuple[str, str]:
    """Store what the authorization server gives; return the ids of vault and credential."""
    vault = api.beta.vaults.create(display_name="V").id
    made = api.beta.vaults.credentials.create(vault, auth=oauth(authority, around, left_s))
    return vault, made.id


def oauth(authority: Authority, around: Perimeter, left_s: float) -> Any:
    tokens = authority.grant(CLIENT, around.url("ledger"))
    client_auth = {"type": "client_secret_post", "client_secret": CLIENT.client_secret}
    return {
        "type": "mcp_oauth",
        "mcp_server_url": around.url("ledger"),
        "access_token": tokens.access_token,
        "expires_at": SystemClock().now() + timedelta(seconds=left_s),
        "refresh": {
            "client_id": CLIENT.client_id,
            "refresh_token": tokens.refresh_token,
            "token_endpoint": around.url("auth", "/token"),
            "token_endpoint_auth": client_auth,
        },
    }


def client_of(server: Server, key: str) -> Anthropic:
    return Anthropic(base_url=server.base_url, api_key=key, max_retries=0)


def gateway_records(around: Perimeter, kind: str) -> list[Any]:
    found = [json.loads(line) for line in around.audit.splitlines()]
    return [record["fields"] for record in found if record["kind"] == kind]


def paths(around: Perimeter, route: str) -> list[str]:
    asked = gateway_records(around, "mcp.request")
    return [fields["path"] for fields in asked if fields["route"] == route]


def test_a_token_is_renewed_and_lost_through_the_tunnel(
    site: Site, private: tuple[Authority, Perimeter]
) -> None:
    authority, around = private
    vault, credential = held(site.api, authority, around, 3600)
    session = talk(site, around.url("ledger"), [vault], "tally")
    assert said(site, session) == "The ledger says 42."
    assert (paths(around, "auth"), errors(site, session)) == ([], [])
    # Refused with 401: renewed at the private server, and the call is made again.
    authority.lose()
    say(site, session)
    assert said(site, session) == "The ledger says 43."
    assert (paths(around, "auth"), errors(site, session)) == (["/token"], [])
    # The user has taken the grant back: the session says so and goes on.
    authority.lose(grants=True)
    say(site, session)
    assert said(site, session) == "There is no ledger today."
    (error,) = errors(site, session)
    assert (error.type, error.mcp_server_name) == ("mcp_authentication_failed_error", "ledger")
    assert site.api.beta.sessions.retrieve(session).status == "idle"
    # And is healed by new tokens, without a new session.
    fresh = oauth(authority, around, 3600)
    del fresh["mcp_server_url"]
    for fixed in ("client_id", "token_endpoint"):
        del fresh["refresh"][fixed]
    site.api.beta.vaults.credentials.update(credential, vault_id=vault, auth=fresh)
    say(site, session)
    assert said(site, session) == "The ledger says 44."
    assert len(errors(site, session)) == 1


def test_an_expiring_token_is_renewed_once_for_many(
    site: Site, private: tuple[Authority, Perimeter]
) -> None:
    authority, around = private
    before = len(paths(around, "auth"))
    vault, _ = held(site.api, authority, around, 5)
    sessions = [talk(site, around.url("ledger"), [vault]) for _ in range(3)]
    assert [said(site, session) for session in sessions] == ["The ledger says 42."] * 3
    assert len(paths(around, "auth")) == before + 1


def test_a_session_may_do_what_all_who_steer_it_may(
    site: Site, private: tuple[Authority, Perimeter]
) -> None:
    authority, around = private
    org = site.api.beta.organization
    ann, bob = (person(org, site.http) for _ in range(2))
    group = org.rbac_groups.create(name="Ledger")
    org.rbac_groups.members.add(group.id, user_id=ann.id)
    (around.home / "policy.cedar").write_text(
        f"""{FOR_KEYS}
        @id("connect") permit(principal is User, action == Action::"connect", resource);
        @id("ledger") permit(
            principal in Group::"{group.id}", action, resource == Tool::"ledger/add"
        ) when {{ context.arguments.a < 21 }};"""
    )
    vault, _ = held(site.api, authority, around, 3600)
    agent_id = agent(site, around.url("ledger"), "tally")
    with (
        client_of(site.server, acting(site.http, ann.id)[1]) as as_ann,
        client_of(site.server, acting(site.http, bob.id)[1]) as as_bob,
    ):
        session = as_ann.beta.sessions.create(
            agent=agent_id, environment_id=site.environment_id, vault_ids=[vault]
        ).id

        def turn(api: Anthropic) -> str:
            idle = site.types(session).count("session.status_idle")
            api.beta.sessions.events.send(session, events=[MESSAGE])
            site.wait(session, "session.status_idle", idle + 1)
            return said(site, session)

        assert turn(as_ann) == "The ledger says 42."
        # Bob is in the workspace, so he may send events; but not act with what Ann alone may do.
        assert "43" not in turn(as_bob)
    asked = [r for r in gateway_records(around, "mcp.request") if r["session"] == session]
    calls = [r for r in asked if r["action"] == "call_tool"]
    assert [(r["policies"], [who["id"] for who in r["who"]]) for r in calls] == [
        (["ledger"], [ann.id])
    ]
    assert calls[0]["who"][0]["groups"] == [[group.id, "Ledger"]]
    listed = [r for r in asked if r["method"] == "tools/list"]
    assert [who["id"] for who in listed[-1]["who"]] == [ann.id, bob.id]
    assert errors(site, session) == []


def test_anothers_private_server_is_like_none_at_all(
    site: Site, private: tuple[Authority, Perimeter]
) -> None:
    """R112 whole: no answer, no delay and no record tells that there is one."""
    _, around = private
    workspace = site.api.beta.organization.workspaces.create(name="Stranger").id
    answer = site.http.post(
        "/x/keys", json={"name": "k"}, headers={"anthropic-workspace-id": workspace}
    )
    there, missing = around.url("ledger"), around.url("ledger").replace("ledger.", "ledger.x")
    before = around.audit
    with client_of(site.server, answer.json()["key"]) as stranger:
        told: dict[str, list[tuple[str, float]]] = {there: [], missing: []}
        for _ in range(15):
            for url, found in told.items():
                found.append(refusal(stranger, url))
        texts = {
            url: {text.replace(url.split("/")[2], "HOST") for text, _ in found}
            for url, found in told.items()
        }
        assert texts[there] == texts[missing]
        assert len(texts[there]) == 1
        # The quickest of each: what else the machine does slows some of them down.
        quickest = [min(seconds for _, seconds in told[url]) for url in (there, missing)]
        assert max(quickest) < 1.5 * min(quickest)
        environment = stranger.beta.environments.create(name="e", config={"type": "self_hosted"})
        failed = []
        for url in (there, missing):
            servers: Any = [{"type": "url", "name": "ledger", "url": url}]
            tools: Any = [{"type": "mcp_toolset", "mcp_server_name": "ledger"}]
            made = stranger.beta.agents.create(
                name="A", model="scripted/tally", tools=tools, mcp_servers=servers
            )
            session = stranger.beta.sessions.create(
                agent=made.id, environment_id=environment.id, initial_events=[MESSAGE]
            )
            failed.append(failure(stranger, session.id, url.split("/")[2]))
    assert failed[0] == failed[1]
    assert failed[0][0] == "mcp_connection_failed_error"
    assert around.audit == before


def refusal(api: Anthropic, url: str) -> tuple[str, float]:
    """Name a server in a message; return what the caller is told, and after how many seconds."""
    began_s = time.perf_counter()
    with pytest.raises(BadRequestError) as caught:
        api.beta.messages.create(
            model="claude-opus-5",
            max_tokens=64,
            messages=[{"role": "user", "content": "hello"}],
            mcp_servers=[{"type": "url", "name": "ledger", "url": url}],
            tools=[{"type": "mcp_toolset", "mcp_server_name": "ledger"}],
            betas=["mcp-client-2025-11-20"],
        )
    return caught.value.message.split("request_id")[0], time.perf_counter() - began_s


def failure(api: Anthropic, session_id: str, host: str) -> tuple[str, str]:
    """Wait for a session's error; return its type and text without the host."""
    for event in api.beta.sessions.events.stream(session_id):
        if event.type == "session.error":
            return event.error.type, str(event.error.message).replace(host, "HOST")
        if event.type == "session.status_idle":
            break
    found = [e for e in api.beta.sessions.events.list(session_id) if e.type == "session.error"]
    return found[0].error.type, str(found[0].error.message).replace(host, "HOST")


def test_no_token_is_left_on_the_way(
    site: Site, private: tuple[Authority, Perimeter], server: Server, edge: Edge
) -> None:
    """After the others: nothing that they sent is in a log, a record, or what an edge relayed."""
    authority, around = private
    relayed = edge.recorded()
    assert len(relayed) > 10_000
    kept = [server.log, around.audit, (edge.home / "audit.jsonl").read_text()]
    kept += [json.dumps(records(server, kind)) for kind in ("secret.use", "session.input")]
    for secret in [*authority.given, str(CLIENT.client_secret)]:
        assert not [text for text in kept if secret in text]
        assert secret.encode() not in relayed
