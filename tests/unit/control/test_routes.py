"""Every route of the application, over a real installation in a temporary directory."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from intramuros.control.app import build_services
from intramuros.control.identity.installation import open_installation
from intramuros.control.routes import create_app
from intramuros.control.settings import ServerSettings
from intramuros.protocol.envelope import MANAGED_AGENTS_BETA, WEBHOOKS_BETA
from tests.unit.control.api.asgi import Answer, call

pytestmark = pytest.mark.anyio

KEY = "an-operators-own-secret"
ROOT = Path(__file__).parents[3]


@dataclass
class Api:
    app: object

    async def __call__(self, path: str, method: str = "GET", **headers: str) -> Answer:
        # Without its beta the webhooks API is not there, whoever asks (contract-2 R249).
        betas = f"{MANAGED_AGENTS_BETA},{WEBHOOKS_BETA}"
        sent = {"x-api-key": KEY, "anthropic-beta": betas}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await call(self.app, path, method=method, headers=sent)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    settings = ServerSettings(data_dir=tmp_path, bootstrap_api_key=KEY)
    opened = await open_installation(tmp_path, None, KEY)
    try:
        yield Api(create_app(await build_services(opened, settings)))
    finally:
        opened.close()


async def test_every_route_but_health_wants_a_credential(api: Api) -> None:
    paths = [
        (path.replace("{", "").replace("}", ""), method.upper())
        for path, methods in api.app.openapi()["paths"].items()
        for method in methods
    ]
    paths += [("/healthz", "GET"), ("/readyz", "GET"), ("/x/openapi.json", "GET")]
    assert len(paths) > 40
    opened = []
    for path, method in paths:
        if (await api(path, method, x_api_key="wrong")).status not in {401, 429}:
            opened.append(path)
    # The exchange is where a workload gets its credential: what it sends proves who it is.
    assert sorted(opened) == ["/healthz", "/readyz", "/v1/oauth/token", "/x/openapi.json"]


@pytest.mark.rule("c1_6", "R005")
async def test_every_v1_route_names_the_beta_it_wants(api: Api) -> None:
    for path in ("/v1/agents", "/v1/environments", "/v1/tunnels", "/v1/sessions"):
        answer = await api(path, anthropic_beta="none-2020-01-01")
        assert answer.status == 400
        assert "send `anthropic-beta: " in answer.json["error"]["message"]


async def test_every_endpoint_of_our_own_is_documented(api: Api) -> None:
    page = await anyio.Path(ROOT, "docs", "reference", "api.md").read_text()
    ours = [
        f"`{method.upper()} {path}`"
        for path, methods in api.app.openapi()["paths"].items()
        for method in methods
        if path.startswith("/x/")
    ]
    assert len(ours) >= 6
    assert [endpoint for endpoint in ours if endpoint not in page] == []


@pytest.mark.rule("c1_3", "R001")
async def test_both_headers_carry_keys_and_bearer_wins(api: Api) -> None:
    for headers in (
        {"authorization": f"bearer  {KEY}", "x_api_key": "wrong"},
        {"authorization": "Basic abc"},
        {"authorization": "Bearer "},
    ):
        assert (await api("/v1/agents", **headers)).status == 200
    assert (await api("/v1/agents", authorization="Bearer wrong")).status == 401


async def test_query_parameters_that_are_wrong_are_named(api: Api) -> None:
    for query in ("limit=x", "include_archived=perhaps", "created_at[gte]=soon", "page=x"):
        answer = await api(f"/v1/agents?{query}")
        assert answer.status == 400, query
        assert answer.json["error"]["message"].startswith(query.split("=")[0] + ":")
