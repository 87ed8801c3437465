"""Plants secrets in credentials of every kind and looks for them wherever something is kept."""

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import httpx2
import pytest
from anthropic import Anthropic

from intramuros.kernel.timing import SystemClock
from tests.fakes.guarded_mcp import Guarded, guarded_mcp
from tests.wire.conftest import SCRIPTS
from tests.wire.host import running
from tests.wire.site import BETA, MESSAGE, Site
from tests.wire.test_vault_mcp import agent, say

pytestmark = pytest.mark.timeout(240)

MARK = "pl4nted"


def planted(name: str) -> str:
    return f"{MARK}-{name}-7f3a9c"


NAMES = (
    *("token", "token-2", "access", "access-2", "refresh", "refresh-2", "client", "client-2"),
    *("value", "value-2", "lost-refresh", "lost-client", "refused"),
    *("repository", "repository-2", "deployed"),
)


def forms(secret: str) -> set[bytes]:
    """Return how a secret may look where it was written down."""
    raw = secret.encode()
    shapes = {raw, raw[::-1], raw.hex().encode(), quote(secret).encode()}
    shapes |= {quote_plus(secret).encode(), secret.encode("utf-16-le")}
    # In base64 a text has three looks, by where it begins; the ends are not its own.
    shapes |= {base64.b64encode(b"." * lead + raw)[4:-4] for lead in range(3)}
    return shapes


@pytest.fixture
def mcp() -> Iterator[Guarded]:
    with guarded_mcp() as guarded:
        yield guarded


def oauth(mcp: Guarded, url: str, refresh: str, client: str) -> Any:
    return {
        "type": "mcp_oauth",
        "mcp_server_url": url,
        "access_token": planted("access"),
        "expires_at": SystemClock().now() + timedelta(seconds=20),
        "refresh": {
            "client_id": "client",
            "refresh_token": planted(refresh),
            "token_endpoint": mcp.token_endpoint,
            "token_endpoint_auth": {
                "type": "client_secret_post",
                "client_secret": planted(client),
            },
        },
    }


def play(site: Site, mcp: Guarded, answers: list[bytes]) -> None:
    """Create, show, change, use, refuse, archive and delete; keep every answer."""
    paths: list[str] = []
    http = site.http

    def post(path: str, body: Any = None, status: int = 200) -> Any:
        text = json.dumps(body, default=str).encode() if body is not None else b""
        answer = http.post(path, content=text, headers={"content-type": "application/json"})
        answers.append(answer.content)
        assert answer.status_code == status, answer.text
        return answer.json()

    vault = post("/v1/vaults", {"display_name": "V"})["id"]
    home = f"/v1/vaults/{vault}/credentials"
    networking = {"type": "unrestricted"}
    lost = mcp.url.replace("127.0.0.1", "127.0.0.2")
    auths = [
        {"type": "static_bearer", "mcp_server_url": mcp.url, "token": planted("token")},
        oauth(mcp, mcp.url + "/oauth", "refresh", "client"),
        oauth(mcp, lost, "lost-refresh", "lost-client"),
        {
            "type": "environment_variable",
            "secret_name": "KEY",
            "secret_value": planted("value"),
            "networking": networking,
        },
    ]
    for auth in auths:
        paths.append(f"{home}/{post(home, {'auth': auth})['id']}")
        post(home, {"auth": auth}, 409)
    # Refused bodies hold secrets too.
    for wrong in (
        {"type": "static_bearer", "mcp_server_url": "x", "token": planted("refused")},
        {"type": "static_bearer", "mcp_server_url": mcp.url, "token": planted("refused") + " "},
        {"type": "static_bearer", "mcp_server_url": mcp.url, "tokken": planted("refused")},
        {"type": "mcp_oauth", "access_token": [planted("refused")]},
    ):
        post(home, {"auth": wrong}, 400)
    session = site.api.beta.sessions.create(
        agent=agent(site, mcp.url), environment_id=site.environment_id, vault_ids=[vault]
    ).id
    say(site, session)  # the token is refused
    mcp.tokens.add(planted("token-2"))
    post(paths[0], {"auth": {"type": "static_bearer", "token": planted("token-2")}})
    say(site, session)
    assert planted("token-2") in mcp.seen
    echoed = [e for e in site.events(session) if e.type == "agent.mcp_tool_result"]
    assert echoed[-1].content[0].text == "42, said with [masked credential]"
    post(f"{paths[1]}/mcp_oauth_validate")
    mcp.status = 500  # echoes what it was sent
    post(f"{paths[2]}/mcp_oauth_validate")
    mcp.status = None
    change = {"refresh_token": planted("refresh-2"), "scope": "s"}
    change["token_endpoint_auth"] = {  # type: ignore[assignment]  # JSON
        "type": "client_secret_post",
        "client_secret": planted("client-2"),
    }
    body = {"type": "mcp_oauth", "access_token": planted("access-2"), "refresh": change}
    post(paths[1], {"auth": body})
    post(paths[3], {"auth": {"type": "environment_variable", "secret_value": planted("value-2")}})
    shown = (home, home + "?include_archived=true", *paths, f"/v1/sessions/{session}/events")
    answers.extend(http.get(path).content for path in shown)
    post(f"{paths[0]}/archive")
    say(site, session)
    answers.append(http.delete(paths[1]).content)
    answers.append(http.get(f"/v1/sessions/{session}/events?limit=1000").content)


def play_repositories(site: Site, answers: list[bytes]) -> None:
    """The same with tokens of repositories: of a session, and of a deployment and its run."""

    def call(path: str, body: Any = None, status: int = 200) -> Any:
        answer = site.http.post(path, json=body) if body is not None else site.http.get(path)
        answers.append(answer.content)
        assert answer.status_code == status, answer.text
        return answer.json()

    def mounted(name: str) -> list[dict[str, str]]:
        url = "https://github.com/octo/repo"
        token = planted(name)
        return [{"type": "github_repository", "url": url, "authorization_token": token}]

    base = {"agent": site.agent(), "environment_id": site.environment("cloud")}
    made = call("/v1/sessions", {**base, "resources": mounted("repository")})
    place = f"/v1/sessions/{made['id']}/resources"
    call(f"{place}/{made['resources'][0]['id']}", {"authorization_token": planted("repository-2")})
    for wrong in (planted("refused") + " ", [planted("refused")], planted("refused") * 300):
        call(f"{place}/{made['resources'][0]['id']}", {"authorization_token": wrong}, 400)
    bad = [{**mounted("refused")[0], "url": f"https://{planted('refused')}@github.com/o/r"}]
    call("/v1/sessions", {**base, "resources": bad}, 400)
    kept = {**base, "name": "D", "initial_events": [MESSAGE], "resources": mounted("deployed")}
    deployment = call("/v1/deployments", kept)
    call(f"/v1/deployments/{deployment['id']}/run", {})
    for path in (place, f"/v1/sessions/{made['id']}", "/v1/sessions", "/v1/deployments"):
        call(path)


def files(data_dir: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(data_dir)): path.read_bytes()
        for path in sorted(data_dir.rglob("*"))
        if path.is_file()
    }


def found(kept: dict[str, bytes]) -> list[str]:
    shapes = {shape: name for name in NAMES for shape in forms(planted(name))}
    return [
        f"{shapes[shape]} in {where}"
        for where, data in kept.items()
        for shape in shapes
        if shape in data
    ]


def test_the_search_finds_what_is_there() -> None:
    for text in (planted("token"), f'{{"a": "Bearer {planted("token")}"}}'):
        for data in (text.encode(), base64.b64encode(text.encode()), text.encode().hex().encode()):
            assert found({"x": data}), data


@pytest.mark.sqlite
def test_R048_R090_no_secret_is_kept_or_said_anywhere(tmp_path: Path, mcp: Guarded) -> None:
    data_dir = tmp_path / "data"
    answers: list[bytes] = []
    settings = {"model_scripts": str(SCRIPTS), "mcp_networks": ["127.0.0.0/8"]}
    with running(data_dir, log_level="debug", **settings) as server:
        client = Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0)
        with client, Site(server, client) as site:
            play(site, mcp, answers)
            play_repositories(site, answers)
            # While it runs: the write-ahead log and the index of it are files too.
            live = files(data_dir)
            assert {"intramuros.db", "intramuros.db-wal", "stderr.log"} <= set(live)
            assert b"mcp_session_failed" in live["stderr.log"]
    kept = {**{f"live {name}": data for name, data in live.items()}, **files(data_dir)}
    kept |= {f"answer {number}": answer for number, answer in enumerate(answers)}
    assert b"secret.use" in kept["live intramuros.db"] + kept["live intramuros.db-wal"]
    assert found(kept) == []
    assert any(planted("access").encode() in seen.encode() for seen in mcp.seen)


def test_R048_another_key_reads_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        answer = httpx2.get(f"{server.base_url}/v1/vaults", headers={"x-api-key": "no", **BETA})
    assert answer.status_code == 401
