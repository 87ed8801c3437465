"""Where webhooks go, through the official SDK and over plain HTTP."""

import base64
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types.beta.organization import BetaNewOrganizationWebhookEndpoint

from intramuros.protocol.webhooks import WORKSPACE_KINDS
from tests.wire.hooks import BETA, PUBLIC, keeping, make
from tests.wire.host import Server
from tests.wire.structure import check

pytestmark = pytest.mark.anyio

ORG: Any = ["external_key.failed", "user_profile.program_status_updated"]


@pytest.fixture(autouse=True)
def http(server: Server) -> Iterator[httpx2.Client]:
    with keeping(server) as made:
        yield made


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["type"]


# ---- the organization's endpoints, through the SDK


def test_R249_R252_R254_an_endpoint_is_made_changed_and_deleted(client: Anthropic) -> None:
    api = client.beta.organization.webhooks
    made = api.create(url=PUBLIC, enabled_events=ORG, name="N", description="D")
    check(made)
    assert (made.state, made.disabled_reason, made.url) == ("enabled", "", PUBLIC)
    assert (made.name, made.description, made.enabled_events) == ("N", "D", ORG)
    assert made.signing_secret.startswith("whsec_")
    assert len(base64.b64decode(made.signing_secret[6:], validate=True)) == 32
    found = api.retrieve(made.id)
    check(found)
    assert "signing_secret" not in found.to_dict()
    changed = api.update(made.id, state="disabled", name="M", enabled_events=[])
    check(changed)
    assert (changed.state, changed.disabled_reason) == ("disabled", "")
    assert (changed.name, changed.description, changed.enabled_events) == ("M", "D", ORG)
    assert api.update(made.id, state="enabled").state == "enabled"
    secret = api.regenerate_signing_secret(made.id)
    check(secret)
    assert secret.signing_secret not in ("", made.signing_secret)
    gone = api.delete(made.id)
    check(gone)
    assert (gone.id, gone.type) == (made.id, "webhook_endpoint_deleted")
    for act in (api.retrieve, api.delete, api.regenerate_signing_secret, api.update):
        with pytest.raises(anthropic.NotFoundError):
            act(made.id)


async def test_the_async_client_does_the_same(async_client: AsyncAnthropic) -> None:
    api = async_client.beta.organization.webhooks
    made = await api.create(url=PUBLIC, enabled_events=ORG)
    check(made)
    assert (await api.retrieve(made.id)).id == made.id
    assert (await api.update(made.id, description="x")).description == "x"
    assert [one.id async for one in api.list()] == [made.id]
    assert (await api.regenerate_signing_secret(made.id)).signing_secret.startswith("whsec_")
    raw = await api.with_raw_response.retrieve(made.id)
    assert raw.headers["request-id"]
    async with api.with_streaming_response.retrieve(made.id) as streamed:
        assert (await streamed.parse()).id == made.id
    assert (await api.delete(made.id)).id == made.id


def test_raw_and_streamed_answers(client: Anthropic) -> None:
    api = client.beta.organization.webhooks
    raw = api.with_raw_response.create(url=PUBLIC, enabled_events=ORG)
    made = raw.parse()
    assert isinstance(made, BetaNewOrganizationWebhookEndpoint)
    assert "anthropic-workspace-id" not in raw.headers
    with api.with_streaming_response.list() as streamed:
        assert [one.id for one in streamed.parse()] == [made.id]


def test_R249_without_the_beta_there_is_no_such_endpoint(server: Server, client: Anthropic) -> None:
    api = client.beta.organization.webhooks
    made = api.create(url=PUBLIC, enabled_events=ORG)
    bare = {"anthropic-beta": "managed-agents-2026-04-01"}
    for act in (
        lambda: api.create(url=PUBLIC, enabled_events=ORG, extra_headers=bare),
        lambda: api.list(extra_headers=bare),
        lambda: api.retrieve(made.id, extra_headers=bare),
        lambda: api.update(made.id, name="x", extra_headers=bare),
        lambda: api.delete(made.id, extra_headers=bare),
        lambda: api.regenerate_signing_secret(made.id, extra_headers=bare),
    ):
        with pytest.raises(anthropic.NotFoundError):
            act()
    nobody = httpx2.get(f"{server.base_url}/v1/organizations/webhooks")
    unknown = httpx2.get(f"{server.base_url}/v1/organizations/no-such-thing")
    assert code(nobody) == code(unknown) == (404, "not_found_error")
    assert api.retrieve(made.id).name == ""


def test_R255_the_list_is_walked_by_ids(client: Anthropic) -> None:
    api = client.beta.organization.webhooks
    newest = [api.create(url=PUBLIC, enabled_events=ORG).id for _ in range(22)][::-1]
    first = api.list(limit=0)
    check(first)
    assert [one.id for one in first.data] == newest[:20]
    assert (first.has_more, first.first_id, first.last_id) == (True, newest[0], newest[19])
    assert [one.id for one in api.list()] == newest
    assert [one.id for one in api.list(limit=7)] == newest
    assert [one.id for one in api.list(limit=7, order="asc")] == newest[::-1]
    assert [one.id for one in api.list(limit=2, before_id=newest[9]).data] == newest[:2]
    assert len(api.list(limit=100).data) == 22
    for bad in ({"limit": 101}, {"limit": -1}, {"after_id": "whep_no"}):
        with pytest.raises(anthropic.BadRequestError):
            api.list(**bad)
    with pytest.raises(anthropic.BadRequestError):
        api.list(extra_query={"order": "sideways"})


def test_R251_at_most_32(client: Anthropic) -> None:
    api = client.beta.organization.webhooks
    made = [api.create(url=PUBLIC, enabled_events=ORG).id for _ in range(32)]
    api.update(made[0], state="disabled")
    with pytest.raises(anthropic.BadRequestError, match="32"):
        api.create(url=PUBLIC, enabled_events=ORG)
    api.delete(made[0])
    api.create(url=PUBLIC, enabled_events=ORG)


def test_R250_R271_what_an_endpoint_may_not_be(client: Anthropic) -> None:
    api = client.beta.organization.webhooks
    kinds: Any = ["vault.created"]
    with pytest.raises(anthropic.BadRequestError, match="enabled_events"):
        api.create(url=PUBLIC, enabled_events=kinds)
    with pytest.raises(anthropic.BadRequestError, match="enabled_events"):
        api.create(url=PUBLIC, enabled_events=[])
    for url in (
        "http://hooks.example.com/",
        "https://hooks.example.com:8443/",
        "https://10.0.0.1/",
        "https://[::ffff:10.0.0.1]/",
        "https://0xa000001/",
    ):
        with pytest.raises(anthropic.BadRequestError, match="url"):
            api.create(url=url, enabled_events=ORG)
    with pytest.raises(anthropic.BadRequestError, match="colour"):
        api.create(url=PUBLIC, enabled_events=ORG, extra_body={"colour": "red"})


# ---- a workspace's endpoints, in the same shape


def test_R257_Q22_workspace_endpoints_have_the_same_shape(http: httpx2.Client) -> None:
    kinds = sorted(WORKSPACE_KINDS)
    made = make(http, PUBLIC, *kinds)
    check(BetaNewOrganizationWebhookEndpoint.construct(**{**made, "enabled_events": ORG}))
    assert made["enabled_events"] == kinds
    path = f"/v1/webhooks/{made['id']}"
    assert "signing_secret" not in http.get(path).json()
    assert http.post(path, json={"name": "N"}).json()["name"] == "N"
    renewed = http.post(f"{path}/regenerate_signing_secret").json()
    assert renewed["signing_secret"] != made["signing_secret"]
    page = http.get("/v1/webhooks").json()
    assert [one["id"] for one in page["data"]] == [made["id"]]
    assert (page["has_more"], page["first_id"]) == (False, made["id"])
    assert http.delete(path).json() == {"id": made["id"], "type": "webhook_endpoint_deleted"}
    assert code(http.get(path)) == (404, "not_found_error")
    bad = http.post("/v1/webhooks", json={"url": PUBLIC, "enabled_events": ORG})
    assert code(bad) == (400, "invalid_request_error")


def test_Q22_either_beta_opens_a_workspaces_endpoints(server: Server, http: httpx2.Client) -> None:
    make(http)
    agents = "managed-agents-2026-04-01"
    for beta in (agents, BETA["anthropic-beta"], f"{agents},{BETA['anthropic-beta']}"):
        answer = http.get("/v1/webhooks", headers={"anthropic-beta": beta})
        assert answer.status_code == 200
    with httpx2.Client(headers={"x-api-key": server.api_key}) as bare:
        answer = bare.get(f"{server.base_url}/v1/webhooks")
        assert code(answer) == (400, "invalid_request_error")


def test_an_endpoint_is_of_its_scope_alone(http: httpx2.Client, client: Anthropic) -> None:
    mine = make(http)["id"]
    ours = client.beta.organization.webhooks.create(url=PUBLIC, enabled_events=ORG).id
    with pytest.raises(anthropic.NotFoundError):
        client.beta.organization.webhooks.retrieve(mine)
    assert http.get(f"/v1/webhooks/{ours}").status_code == 404
    assert [one.id for one in client.beta.organization.webhooks.list()] == [ours]


def test_no_secret_is_in_the_logs(server: Server, http: httpx2.Client) -> None:
    made = make(http)
    new = http.post(f"/v1/webhooks/{made['id']}/regenerate_signing_secret").json()
    for secret in (made["signing_secret"], new["signing_secret"]):
        assert secret not in server.log
