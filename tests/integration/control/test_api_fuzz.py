"""Whatever is sent to whichever endpoint, the answer is a success or an error in the envelope."""

import json
import re
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.from_thread
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intramuros.control.app import build_services
from intramuros.control.identity.installation import open_installation
from intramuros.control.routes import create_app
from intramuros.control.settings import ServerSettings
from tests.unit.control.api.asgi import Answer, call

KEY = "an-operators-own-secret"
BETAS = "managed-agents-2026-04-01,mcp-tunnels-2026-06-22"

WORDS = st.sampled_from(
    [
        "type",
        "name",
        "model",
        "id",
        "tools",
        "configs",
        "config",
        "networking",
        "packages",
        "metadata",
        "cloud",
        "limited",
        "custom",
        "self_hosted",
        "agent",
        "agent_toolset_20260401",
        "mcp_toolset",
        "mcp_servers",
        "bash",
        "events",
        "user.message",
        "content",
        "text",
        "system",
        "version",
        "environment_id",
        "title",
        "description",
        "input_schema",
        "object",
        "enabled",
        "key",
        "\x00",
        "ca_certificate_pem",
        "reason",
        "user.interrupt",
        "agent_with_overrides",
        "display_name",
        "\ud7ff",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
JSON = st.recursive(
    LEAVES,
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(WORDS | st.text(max_size=4), children, max_size=5)
    ),
    max_leaves=20,
)
BODIES = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())


class Api:
    def __init__(self, portal: Any, app: Any) -> None:
        self._portal = portal
        self._app = app
        self.operations = [
            (path, method.upper(), body_schema(app.openapi(), operation))
            for path, methods in app.openapi()["paths"].items()
            for method, operation in methods.items()
            # Streams and polls wait by design; their own tests cover them.
            if not path.endswith(("/stream", "/poll"))
        ]

    def __call__(self, path: str, method: str, body: bytes) -> Answer:
        headers = {
            "x-api-key": KEY,
            "anthropic-beta": BETAS,
            "content-type": "application/json",
        }

        async def send() -> Answer:
            return await call(self._app, path, method=method, headers=headers, body=[body])

        return self._portal.call(send)


def body_schema(document: Any, operation: Any) -> Any:
    content = operation.get("requestBody", {}).get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
    return document["components"]["schemas"].get(reference.rpartition("/")[2])


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    data_dir = tmp_path_factory.mktemp("fuzz")
    options = ServerSettings(data_dir=data_dir, bootstrap_api_key=KEY)
    with anyio.from_thread.start_blocking_portal() as portal:
        opened = portal.call(open_installation, data_dir, None, KEY)
        try:
            yield Api(portal, create_app(portal.call(build_services, opened, options)))
        finally:
            opened.close()


def shaped(schema: Any) -> st.SearchStrategy[bytes]:
    """Return bodies that have the endpoint's own members, with anything in them."""
    members = dict.fromkeys((schema or {}).get("properties", {}), JSON)
    shapes = st.fixed_dictionaries({}, optional=members)
    return shapes.map(lambda value: json.dumps(value).encode())


@pytest.mark.timeout(240)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_every_endpoint_answers_in_the_contract(api: Api, data: st.DataObject) -> None:
    path, method, schema = data.draw(st.sampled_from(api.operations))
    segment = st.text(alphabet="abzAZ09_-.~%é\u0000\U0001f600", min_size=1, max_size=12)
    path = re.sub(r"\{\w+\}", lambda _: data.draw(segment), path)
    query = data.draw(
        st.sampled_from(["", "?limit=1", "?page=x", "?version=0", "?created_at[gt]=1"])
    )
    answer = api(path + query, method, data.draw(BODIES | shaped(schema)))
    assert answer.ended
    assert answer.headers["request-id"].startswith("req_")
    assert answer.status < 500, (path, answer.body)
    if answer.status >= 400:
        assert answer.json["type"] == "error"
        assert answer.json["error"]["message"]
        assert answer.json["request_id"] == answer.headers["request-id"]


def test_the_document_knows_every_body(api: Api) -> None:
    posts = {path for path, method, schema in api.operations if method == "POST" and schema}
    assert {"/v1/agents", "/v1/environments", "/v1/tunnels", "/v1/sessions"} <= posts
