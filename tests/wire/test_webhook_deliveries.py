"""Webhooks from end to end: the official SDK triggers, checks and acts on them."""

import ssl
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import anyio.to_thread
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from intramuros.protocol.webhooks import WORKSPACE_KINDS
from tests.fakes.receiver import Delivery, Receiver, receiving, status
from tests.wire.conftest import SCRIPTS
from tests.wire.hooks import BETA, keeping, make
from tests.wire.host import Server, running
from tests.wire.site import MESSAGE, Site, until
from tests.wire.structure import check
from tests.wire.test_budgets import MODELS, limit, spender
from tests.wire.test_deployments import HOURLY, deploy, make_due, wait_for_run
from tests.wire.workers import official

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with receiving(tmp_path_factory.mktemp("receiver")) as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("hooks")
    (root / "models.yaml").write_text(MODELS.replace("spender", "greedy"))
    with running(
        root / "data",
        models_file=str(root / "models.yaml"),
        model_scripts=str(SCRIPTS),
        webhook_networks=["127.0.0.0/8"],
        webhook_ports=[443, receiver.port],
        webhook_ca_file=str(receiver.ca_file),
        webhook_retry_min_s=0.1,
        webhook_retry_max_s=0.4,
        webhook_timeout_s=20,
    ) as started:
        yield started


@pytest.fixture
def http(server: Server, receiver: Receiver) -> Iterator[httpx2.Client]:
    with keeping(server) as made:
        yield made
    receiver.answers.clear()
    receiver.answer = status(200)
    receiver.forget()


def disabled(http: httpx2.Client, path: str) -> Any:
    """Return an endpoint that the server has disabled, or None while it has not."""
    shown = http.get(path).json()
    return shown if shown["disabled_reason"] else None


def unwrapped(client: Anthropic, delivery: Any, secret: str) -> Any:
    event = client.beta.webhooks.unwrap(delivery.body, headers=delivery.headers, key=secret)
    check(event, nullable=False)
    assert event.id == delivery.headers["webhook-id"]
    assert event.id.startswith("whe_")
    return event


def test_c26_1_c26_2_R258_Q25_a_vault_is_told_as_the_sdk_reads_it(
    client: Anthropic, http: httpx2.Client, receiver: Receiver
) -> None:
    made = make(http, receiver.url, "vault.created", "vault.deleted", "vault_credential.deleted")
    raw = client.beta.vaults.with_raw_response.create(display_name="V")
    vault = raw.parse()
    [delivery] = receiver.wait(1)
    event = unwrapped(client, delivery, made["signing_secret"])
    assert (event.type, event.data.type, event.data.id) == ("event", "vault.created", vault.id)
    assert event.data.workspace_id == raw.headers["anthropic-workspace-id"]
    assert event.data.organization_id == raw.headers["anthropic-organization-id"]
    assert abs(event.created_at.timestamp() - time.time()) < 30
    assert set(event.data.to_dict()) == {"type", "id", "organization_id", "workspace_id"}
    auth: Any = {"type": "static_bearer", "token": "t", "mcp_server_url": "https://x.test"}
    credential = client.beta.vaults.credentials.create(vault.id, auth=auth)
    client.beta.vaults.delete(vault.id)
    told = {
        e.data.type: e.data
        for e in (unwrapped(client, d, made["signing_secret"]) for d in receiver.wait(3))
    }
    assert told["vault_credential.deleted"].vault_id == vault.id
    assert told["vault_credential.deleted"].id == credential.id
    assert told["vault.deleted"].id == vault.id


async def test_unwrap_of_the_async_client(
    async_client: AsyncAnthropic, client: Anthropic, http: httpx2.Client, receiver: Receiver
) -> None:
    made = make(http, receiver.url, "vault.created")
    client.beta.vaults.create(display_name="V")
    [delivery] = await anyio.to_thread.run_sync(receiver.wait, 1)
    event = async_client.beta.webhooks.unwrap(
        delivery.body, headers=delivery.headers, key=made["signing_secret"]
    )
    assert event.data.type == "vault.created"
    with pytest.raises(Exception, match="No matching signature"):
        async_client.beta.webhooks.unwrap(
            delivery.body, headers=delivery.headers, key="whsec_" + "AAAA" * 8
        )


@pytest.mark.rule("c9_40", "R260")
def test_a_session_is_told_from_its_start_to_its_end(
    client: Anthropic, site: Site, http: httpx2.Client, receiver: Receiver
) -> None:
    made = make(http, receiver.url, *sorted(WORKSPACE_KINDS))
    session = site.session(initial_events=[MESSAGE])
    site.wait(session.id, "session.status_idle")
    item = site.worker.beta.environments.work.poll(site.environment_id)
    assert item is not None
    site.worker.beta.environments.work.ack(item.id, environment_id=site.environment_id)
    site.worker.beta.environments.work.stop(item.id, environment_id=site.environment_id, force=True)
    client.beta.sessions.update(session.id, title="T")
    client.beta.sessions.archive(session.id)
    client.beta.sessions.delete(session.id)
    receiver.wait(6)
    events = [unwrapped(client, d, made["signing_secret"]) for d in receiver.deliveries()]
    of_session = sorted(e.data.type for e in events if e.data.id == session.id)
    assert of_session == [
        "session.deleted",
        "session.status_idled",
        "session.status_run_started",
        "session.status_terminated",
        "session.updated",
    ]
    # Its work item came, was served and went, which is nobody's news.
    assert {e.data.type for e in events} - set(of_session) == {"agent.created"}


@pytest.mark.rule("c26_4", "c9_40")
def test_a_worker_that_polls_when_told_finds_the_work(
    client: Anthropic, site: Site, http: httpx2.Client, receiver: Receiver
) -> None:
    secret = make(http, receiver.url, "session.status_run_started")["signing_secret"]
    for number in range(5):
        session = site.session("shell", initial_events=[MESSAGE])
        delivery = receiver.wait(number + 1)[-1]
        assert unwrapped(client, delivery, secret).data.id == session.id
        item = site.worker.beta.environments.work.poll(site.environment_id)
        assert item is not None
        assert item.data.id == session.id


@pytest.mark.rule("c26_4")
async def test_the_official_worker_started_by_a_webhook_serves_the_session(
    site: Site, client: Anthropic, http: httpx2.Client, receiver: Receiver, tmp_path: Any
) -> None:
    secret = make(http, receiver.url, "session.status_run_started")["signing_secret"]
    session = await anyio.to_thread.run_sync(
        lambda: site.session("shell", initial_events=[MESSAGE])
    )
    [delivery] = await anyio.to_thread.run_sync(receiver.wait, 1)
    assert unwrapped(client, delivery, secret).data.id == session.id
    async with official(site, tmp_path):
        await anyio.to_thread.run_sync(site.wait, session.id, "user.tool_result")


@pytest.mark.rule("R263", "R265")
def test_a_deployment_is_told_of_and_so_is_its_scheduled_run(
    site: Site, http: httpx2.Client, receiver: Receiver
) -> None:
    kinds = [kind for kind in sorted(WORKSPACE_KINDS) if kind.startswith("deployment")]
    secret = make(http, receiver.url, *kinds)["signing_secret"]
    deployments = site.api.beta.deployments
    made = deploy(site, schedule={**HOURLY, "expression": "* * * * *"})
    make_due(site, made.id)
    run = wait_for_run(site, made.id)
    by_hand = deployments.run(made.id).id
    for _ in range(2):
        deployments.update(made.id, name="Changed")
        deployments.pause(made.id)
    for _ in range(2):
        deployments.unpause(made.id)
    for _ in range(2):
        deployments.archive(made.id)

    def all_told() -> list[Any] | None:
        told = [unwrapped(site.api, d, secret).data for d in receiver.deliveries()]
        return told if sum(data.id in (made.id, run.id) for data in told) >= 7 else None

    # Another minute may begin and bring another run.
    told = until(all_told)
    acts = ("archived", "created", "paused", "unpaused", "updated")
    assert sorted(data.type for data in told if data.id == made.id) == [
        f"deployment.{act}" for act in acts
    ]
    assert sorted(data.type for data in told if data.id == run.id) == [
        "deployment_run.started",
        "deployment_run.succeeded",
    ]
    assert by_hand not in {data.id for data in told}


@pytest.mark.rule("R266")
def test_a_budget_is_told_of_once_for_each_value(
    site: Site, http: httpx2.Client, receiver: Receiver
) -> None:
    secret = make(http, receiver.url, "session.budget_reached", "session.status_idled")[
        "signing_secret"
    ]
    sessions = site.api.beta.sessions
    session_id = site.session(
        agent=spender(site.api, "greedy"), budget=limit("10"), initial_events=[MESSAGE]
    ).id
    for idles, raised in ((1, "15"), (3, "25")):
        log = site.wait(session_id, "session.status_idle", idles)
        call = [event for event in log if event.type == "agent.custom_tool_use"][-1]
        reply: Any = {"type": "user.custom_tool_result", "custom_tool_use_id": call.id}
        sessions.events.send(session_id, events=[reply])
        log = site.wait(session_id, "session.status_idle", idles + 1)
        assert log[-1].stop_reason.type == "budget_reached"
        sessions.update(session_id, title=f"at {raised}")
        sessions.events.send(session_id, events=[{"type": "user.interrupt"}])
        sessions.update(session_id, budget=limit(raised))
    site.wait(session_id, "session.status_idle", 5)
    receiver.wait(7)
    told = [unwrapped(site.api, d, secret).data for d in receiver.deliveries()]
    assert sorted(data.type for data in told) == [
        *["session.budget_reached"] * 2,
        *["session.status_idled"] * 5,
    ]
    assert {data.id for data in told} == {session_id}


def test_R276_R274_R270_failures_are_retried_with_the_same_id_and_a_fresh_signature(
    client: Anthropic, http: httpx2.Client, receiver: Receiver
) -> None:
    made = make(http, receiver.url)
    receiver.answer = status(503)
    client.beta.vaults.create(display_name="V")
    got = receiver.wait(3)
    time.sleep(1)  # noqa: TID251  a fourth would come within half a second
    assert len(receiver.deliveries()) == 3
    assert len({d.headers["webhook-id"] for d in got}) == 1
    assert len({d.body for d in got}) == 1
    waits = [b.at_s - a.at_s for a, b in pairwise(got)]
    assert all(0.1 <= wait < 10 for wait in waits)
    for delivery in got:
        unwrapped(client, delivery, made["signing_secret"])
    shown = http.get(f"/v1/webhooks/{made['id']}").json()
    assert (shown["state"], shown["disabled_reason"]) == ("enabled", "")


@pytest.mark.rule("R272", "R254")
def test_a_redirect_disables_and_enabling_brings_nothing_back(
    client: Anthropic, http: httpx2.Client, receiver: Receiver
) -> None:
    made = make(http, receiver.url)
    receiver.answer = status(302, f"location: {receiver.url}/elsewhere")
    client.beta.vaults.create(display_name="V")
    receiver.wait(1)
    path = f"/v1/webhooks/{made['id']}"
    shown = until(lambda: disabled(http, path))
    assert shown["state"] == "disabled"
    assert shown["disabled_reason"] == "auto-disabled: endpoint URL returned a redirect (3xx)"
    client.beta.vaults.create(display_name="missed")
    receiver.answer = status(200)
    enabled = http.post(path, json={"state": "enabled"}).json()
    assert (enabled["state"], enabled["disabled_reason"]) == ("enabled", "")
    vault = client.beta.vaults.create(display_name="V")
    last = unwrapped(client, receiver.wait(2)[-1], made["signing_secret"])
    assert last.data.id == vault.id
    assert {d.target for d in receiver.deliveries()} == {"/hooks"}


def test_R256_nothing_is_signed_with_a_secret_that_was_replaced(
    client: Anthropic, http: httpx2.Client, receiver: Receiver
) -> None:
    made = make(http, receiver.url)
    replaced = threading.Event()

    def fail_once_replaced(delivery: Delivery, sock: ssl.SSLSocket) -> None:
        assert replaced.wait(60)
        receiver.answer = status(200)
        status(500)(delivery, sock)

    receiver.answer = fail_once_replaced
    client.beta.vaults.create(display_name="V")
    [first] = receiver.wait(1)
    unwrapped(client, first, made["signing_secret"])
    path = f"/v1/webhooks/{made['id']}/regenerate_signing_secret"
    new = http.post(path).json()["signing_secret"]
    replaced.set()
    second = receiver.wait(2)[-1]
    assert second.headers["webhook-id"] == first.headers["webhook-id"]
    unwrapped(client, second, new)


def test_a_slow_endpoint_delays_no_other(
    client: Anthropic, http: httpx2.Client, receiver: Receiver
) -> None:
    enough = threading.Event()

    def slow(delivery: Delivery, sock: ssl.SSLSocket) -> None:
        enough.wait(20)
        status(200)(delivery, sock)

    receiver.answers["/slow"] = slow
    make(http, receiver.url.replace("/hooks", "/slow"))
    make(http, receiver.url)
    for _ in range(8):
        client.beta.vaults.create(display_name="V")
    receiver.wait(8, "/hooks")
    # Nothing has been answered there yet, and no more than four attempts wait for it.
    assert len(receiver.deliveries("/slow")) <= 4
    enough.set()
    receiver.wait(8, "/slow")


def test_another_workspace_hears_nothing(
    server: Server, client: Anthropic, http: httpx2.Client, receiver: Receiver
) -> None:
    workspace = client.beta.organization.workspaces.create(name="Other").id
    key = http.post(
        "/x/keys",
        json={"name": "k", "scopes": ["workspace:developer"]},
        headers={"anthropic-workspace-id": workspace},
    ).json()["key"]
    make(http, receiver.url.replace("/hooks", "/mine"))
    theirs = {"x-api-key": key, **BETA}
    with httpx2.Client(base_url=server.base_url, headers=theirs) as foreign:
        make(foreign, receiver.url.replace("/hooks", "/theirs"))
        assert len(foreign.get("/v1/webhooks").json()["data"]) == 1
    mine = client.beta.vaults.create(display_name="V").id
    with Anthropic(base_url=server.base_url, api_key=key, max_retries=0) as other:
        vault = other.beta.vaults.create(display_name="V").id
    [here], [there] = receiver.wait(1, "/mine"), receiver.wait(1, "/theirs")
    assert f'"{mine}"' in here.body
    assert f'"{vault}"' in there.body
    assert workspace in there.body
    assert workspace not in here.body
