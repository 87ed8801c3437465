"""What every request meets: ids, errors, limits, credentials, headers."""

import json
import re
from collections.abc import Iterator

import anthropic
import httpx2
import pytest
from anthropic import Anthropic

from tests.wire.host import Server, running

BETA = {"anthropic-beta": "managed-agents-2026-04-01"}
AGENT = {"name": "a", "model": "m"}


@pytest.fixture
def http(server: Server) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {server.api_key}", **BETA}
    with httpx2.Client(base_url=server.base_url, headers=headers) as made:
        yield made


def error_of(response: httpx2.Response, status: int) -> dict[str, object]:
    """Return the envelope's error after checking everything that all of them share."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"]
    assert re.fullmatch(r"req_[0-9A-Z]{26}", body["request_id"])
    error: dict[str, object] = body["error"]
    return error


def test_health_needs_no_credential(server: Server) -> None:
    for path in ("/healthz", "/readyz"):
        response = httpx2.get(server.base_url + path)
        assert response.status_code == 200
        assert response.headers["request-id"].startswith("req_")
        assert "anthropic-workspace-id" not in response.headers


@pytest.mark.rule("c1_17", "c1_19", "R025")
def test_raw_responses_show_request_organization_and_workspace(client: Anthropic) -> None:
    first = client.beta.agents.with_raw_response.list()
    second = client.beta.agents.with_raw_response.list()
    assert first.request_id != second.request_id
    assert first.headers["anthropic-workspace-id"].startswith("wrkspc_")
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f-]{27}", first.headers["anthropic-organization-id"])


@pytest.mark.rule("c1_18", "c3_1", "c3_6", "R017")
def test_unknown_paths_and_methods_speak_the_envelope(http: httpx2.Client) -> None:
    assert error_of(http.get("/v1/nothing"), 404)["type"] == "not_found_error"
    assert error_of(http.get("/v1/agents/"), 404)["type"] == "not_found_error"
    response = http.put("/v1/agents")
    assert error_of(response, 405)["type"] == "invalid_request_error"
    assert "POST" in response.headers["allow"] or "GET" in response.headers["allow"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "EOF"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'"text"', "object"),
        (b'{"name":"a","model":"m"} x', "trailing"),
        (b'{"name":"a","model":"m",}', "trailing comma"),
        (b'{"name":"a\x00","model":"m"}', "control character"),
        (b'{"name":"a\\u0000","model":"m"}', "U\\+0000"),
        (b'{"name":"a\\ud800","model":"m"}', "escape"),
        (b'{"name":' + b"[" * 5000 + b"]" * 5000 + b"}", "recursion"),
        (b'{"name":' + b"9" * 5000 + b"}", "out of range"),
        (b'{"name":1,"model":"m"}', "name: "),
        (b'{"model":"m"}', "name: "),
        (b'{"name":"a","model":"m","colour":"red","size":1}', "colour: unknown.*size: unknown"),
        (b'{"name":"a","model":"m","metadata":{"a":1}}', r"metadata\.a: "),
        (b'{"name":NaN,"model":"m"}', "name: "),
    ],
)
@pytest.mark.rule("c1_18", "c3_1", "R017")
def test_bad_bodies_are_named(http: httpx2.Client, body: bytes, message: str) -> None:
    response = http.post("/v1/agents", content=body, headers={"content-type": "application/json"})
    error = error_of(response, 400)
    assert error["type"] == "invalid_request_error"
    assert re.search(message, str(error["message"])), error


def test_numbers_that_do_not_survive_json_are_refused(http: httpx2.Client) -> None:
    schema = b'{"type":"object","properties":{"x":{"default":%s}}}'
    tool = b'{"type":"custom","name":"t","description":"d","input_schema":' + schema + b"}"
    for number in (b"1e400", b"-Infinity", b"99999999999999999999"):
        body = b'{"name":"a","model":"m","tools":[' + tool % number + b"]}"
        error = error_of(http.post("/v1/agents", content=body), 400)
        assert "input_schema: " in str(error["message"])
    body = b'{"name":"a","model":"m","tools":[' + tool % b"12.5" + b"]}"
    assert http.post("/v1/agents", content=body).status_code == 200


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({"content-encoding": "gzip"}, b"\x1f\x8b", "request_body_encoding_unsupported"),
        ({"content-type": "application/json; charset=latin-1"}, b"{}", "unsupported_charset"),
        ({}, '{"name":"é"}'.encode("latin-1"), "request_body_encoding_invalid"),
        ({"content-type": "text/plain"}, b"{}", None),
    ],
)
@pytest.mark.rule("c3_2", "c3_15")
def test_encodings(
    http: httpx2.Client, headers: dict[str, str], body: bytes, code: str | None
) -> None:
    error = error_of(http.post("/v1/agents", content=body, headers=headers), 400)
    details = error.get("details")
    assert (details["error_code"] if isinstance(details, dict) else None) == code


@pytest.mark.rule("c1_26")
def test_bodies_over_the_limit_are_refused_before_they_are_read(http: httpx2.Client) -> None:
    big = b" " * (32 * 1024 * 1024 + 1)
    assert error_of(http.post("/v1/agents", content=big), 413)["type"] == "request_too_large"

    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 1024 * 1024

    # Without a length the server counts; it may hang up before everything was sent.
    try:
        response = http.post("/v1/agents", content=pieces())
    except httpx2.TransportError:
        return
    assert error_of(response, 413)["type"] == "request_too_large"


@pytest.mark.rule("c1_14", "R016")
def test_empty_bodies_with_a_json_content_type_work(http: httpx2.Client) -> None:
    agent = http.post("/v1/agents", json=AGENT).json()
    for body in (b"", b"{}"):
        response = http.post(
            f"/v1/agents/{agent['id']}/archive",
            content=body,
            headers={"content-type": "application/json"},
        )
        assert response.status_code == 200


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
@pytest.mark.rule("c1_1", "c1_2", "c1_3", "R001")
def test_keys_work_in_either_header(server: Server, name: str) -> None:
    value = f"Bearer {server.api_key}" if name == "authorization" else server.api_key
    response = httpx2.get(f"{server.base_url}/v1/agents", headers={name: value, **BETA})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer sk-ant-nobody"}, {"x-api-key": "no"}, {"authorization": "X y"}],
)
@pytest.mark.rule("c3_5", "R025")
def test_no_good_credential_is_401(server: Server, headers: dict[str, str]) -> None:
    response = httpx2.get(f"{server.base_url}/v1/agents", headers={**headers, **BETA})
    assert error_of(response, 401)["type"] == "authentication_error"
    assert "anthropic-workspace-id" not in response.headers


@pytest.mark.rule("c1_4", "c1_5", "c1_11", "c1_19", "R002", "R003", "R004", "R023")
def test_versions_betas_and_workspaces(http: httpx2.Client) -> None:
    for version in ("2023-06-01", "2026-10-21"):
        headers = {"anthropic-version": version}
        assert http.get("/v1/agents?beta=true", headers=headers).status_code == 200
    error = error_of(http.get("/v1/agents", headers={"anthropic-version": "latest"}), 400)
    assert "anthropic-version" in str(error["message"])
    for betas in ("", "something-2030-01-01"):
        error = error_of(http.get("/v1/agents", headers={"anthropic-beta": betas}), 400)
        assert "anthropic-beta: managed-agents-2026-04-01" in str(error["message"])
    many = {"anthropic-beta": "something-2030-01-01, managed-agents-2026-04-01"}
    mine = http.get("/v1/agents", headers=many)
    assert mine.status_code == 200
    workspace = {"anthropic-workspace-id": mine.headers["anthropic-workspace-id"]}
    assert http.get("/v1/agents", headers=workspace).status_code == 200
    response = http.get("/v1/agents", headers={"anthropic-workspace-id": "wrkspc_other"})
    assert error_of(response, 403)["type"] == "permission_error"


def test_api_keys_live_and_die(server: Server, client: Anthropic) -> None:
    made = client.post("/x/keys", body={"name": "ci"}, cast_to=object)
    assert isinstance(made, dict)
    assert made["scopes"] == ["workspace:developer", "workspace:inference"]
    with Anthropic(base_url=server.base_url, api_key=made["key"], max_retries=0) as other:
        other.beta.agents.list()
        with pytest.raises(anthropic.PermissionDeniedError, match="org:admin"):
            other.get("/x/keys", cast_to=object)
        listed = client.get("/x/keys", cast_to=object)
        assert isinstance(listed, dict)
        assert made["id"] in [key["id"] for key in listed["data"]]
        assert made["key"] not in json.dumps(listed)
        client.delete(f"/x/keys/{made['id']}", cast_to=object)
        with pytest.raises(anthropic.AuthenticationError):
            other.beta.agents.list()


def test_lenient_mode_ignores_unknown_fields(tmp_path_factory: pytest.TempPathFactory) -> None:
    data_dir = tmp_path_factory.mktemp("lenient") / "data"
    key = "an-operators-own-key"
    with (
        running(data_dir, lenient=True, bootstrap_api_key=key) as server,
        Anthropic(base_url=server.base_url, api_key=key, max_retries=0) as client,
    ):
        body = {
            **AGENT,
            "colour": 1,
            "tools": [{"type": "agent_toolset_20260401", "new": True}],
        }
        made = client.post("/v1/agents", body=body, cast_to=object, options={"headers": BETA})
        assert isinstance(made, dict)
        assert "colour" not in made
        with pytest.raises(anthropic.BadRequestError):
            client.post(
                "/v1/agents",
                body={**body, "name": 1},
                cast_to=object,
                options={"headers": BETA},
            )
        assert "unknown_fields_ignored" in server.log
        assert key not in server.log


def test_repeated_bad_credentials_are_slowed_down_but_good_ones_pass(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with (
        running(tmp_path_factory.mktemp("throttle") / "data") as server,
        httpx2.Client(base_url=server.base_url, headers=BETA) as http,
    ):
        statuses = [
            http.get("/v1/agents", headers={"x-api-key": f"bad-{i}"}).status_code for i in range(25)
        ]
        assert statuses[:20] == [401] * 20
        assert statuses[-1] == 429
        refused = http.get("/v1/agents", headers={"x-api-key": "bad"})
        assert int(refused.headers["retry-after"]) >= 1
        good = http.get("/v1/agents", headers={"x-api-key": server.api_key})
        assert good.status_code == 200
