"""What all resources share: ids, times, lists of nothing in particular, codes, retries."""

import re
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types.beta import BetaEnvironmentArchivedError

from tests.wire.site import BETA, MESSAGE, Site

if TYPE_CHECKING:
    import httpx2

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


def test_c4_1_ids_say_what_they_name(site: Site) -> None:
    made = site.session(initial_events=[MESSAGE])
    log = site.wait(made.id, "session.status_idle")
    item = site.worker.beta.environments.work.poll(site.environment_id)
    assert item is not None
    (thread,) = site.api.beta.sessions.threads.list(made.id)
    raw = site.http.get("/v1/agents")
    key = site.http.get("/x/keys").json()["data"][0]
    named = {
        "agent": made.agent.id,
        "env": site.environment_id,
        "sesn": made.id,
        "sthr": thread.id,
        "sevt": log[0].id,
        "work": item.id,
        "apikey": key["id"],
        "wrkspc": raw.headers["anthropic-workspace-id"],
        "req": raw.headers["request-id"],
    }
    for prefix, value in named.items():
        assert re.fullmatch(rf"{prefix}_[0-9A-Za-z]+", value), (prefix, value)


def test_c4_2_times_are_utc_and_say_so(site: Site) -> None:
    made = site.session(initial_events=[MESSAGE])
    site.wait(made.id, "session.status_idle")
    found = []
    for path in (
        f"/v1/agents/{made.agent.id}",
        f"/v1/environments/{site.environment_id}",
        f"/v1/sessions/{made.id}",
        f"/v1/sessions/{made.id}/events",
        f"/v1/sessions/{made.id}/threads",
    ):
        answer = site.http.get(path)
        assert answer.status_code == 200
        found += list(times(answer.json()))
    assert len(found) > 15
    assert [text for text in found if not TIME.fullmatch(text)] == []


def times(value: Any) -> Any:
    if isinstance(value, list):
        for child in value:
            yield from times(child)
    elif isinstance(value, dict):
        for name, child in value.items():
            if name.endswith("_at") and isinstance(child, str):
                yield child
            yield from times(child)


def test_c1_22_R022_the_same_create_twice_makes_two(site: Site) -> None:
    body = {"name": "twin", "model": "m"}
    made = [site.http.post("/v1/agents", json=body).json() for _ in range(2)]
    assert made[0]["id"] != made[1]["id"]


def test_c5_19_agents_cannot_be_deleted(site: Site) -> None:
    agent_id = site.agent()
    assert site.http.delete(f"/v1/agents/{agent_id}").status_code == 405
    assert site.api.beta.agents.retrieve(agent_id).id == agent_id


def test_c5_30_a_system_prompt_may_be_long_and_not_longer(site: Site) -> None:
    agent = site.api.beta.agents.create(name="a", model="m", system="x" * 100_000)
    assert agent.system is not None
    assert len(agent.system) == 100_000
    with pytest.raises(anthropic.BadRequestError, match="system"):
        site.api.beta.agents.create(name="a", model="m", system="x" * 100_001)
    overrides: Any = {"type": "agent_with_overrides", "id": agent.id, "system": "x" * 100_001}
    with pytest.raises(anthropic.BadRequestError, match="system"):
        site.api.beta.sessions.create(agent=overrides, environment_id=site.environment_id)


def test_c3_3_R018_codes_become_the_clients_own_exceptions(site: Site) -> None:
    environment_id = site.environment()
    site.api.beta.environments.archive(environment_id)
    with pytest.raises(BetaEnvironmentArchivedError):
        site.api.beta.environments.update(environment_id, name="late")


def test_R011_the_oauth_beta_is_welcome_everywhere(site: Site) -> None:
    betas = {"anthropic-beta": f"oauth-2025-04-20,{BETA['anthropic-beta']}"}
    for path in ("/v1/agents", "/v1/environments", "/v1/sessions"):
        assert site.http.get(path, headers=betas).status_code == 200


@pytest.mark.rule("c4_17", "R028")
def test_a_cursor_that_was_tampered_with_is_refused_everywhere(site: Site) -> None:
    made = site.session()
    for path in (
        "/v1/agents",
        "/v1/environments",
        "/v1/sessions",
        f"/v1/agents/{made.agent.id}/versions",
        f"/v1/sessions/{made.id}/events",
        f"/v1/sessions/{made.id}/threads",
    ):
        answer = site.http.get(path, params={"page": "page_AAAA"})
        assert answer.status_code == 400, path
        assert answer.json()["error"]["message"].startswith("page:")
        assert site.http.get(path, params={"limit": 0}).status_code == 400


def test_c1_24_R021_final_conflicts_are_sent_once(site: Site) -> None:
    made = site.session()
    site.worker.beta.environments.work.poll(site.environment_id)
    (item,) = site.worker.beta.environments.work.list(site.environment_id)
    sent: list[httpx2.Request] = []
    http = anthropic.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    with Anthropic(
        base_url=site.server.base_url, auth_token=site.key, max_retries=2, http_client=http
    ) as retrying:
        work = retrying.beta.environments.work
        work.ack(item.id, environment_id=site.environment_id)
        with pytest.raises(anthropic.ConflictError):
            work.ack(item.id, environment_id=site.environment_id)
    assert len(sent) == 2
    assert item.data.id == made.id
