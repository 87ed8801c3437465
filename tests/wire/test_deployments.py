"""Deployments and their runs through the official SDK."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types.beta import BetaManagedAgentsDeployment, BetaManagedAgentsDeploymentRun

from intramuros.kernel.timing import SystemClock
from tests.engines import opened
from tests.wire.site import MESSAGE, Site, until
from tests.wire.structure import check

pytestmark = pytest.mark.anyio

HOURLY: Any = {"type": "cron", "expression": "0 * * * *", "timezone": "Europe/Dublin"}
SYSTEM: Any = {"type": "system.message", "content": [{"type": "text", "text": "be brief"}]}


def checked(found: BetaManagedAgentsDeployment) -> BetaManagedAgentsDeployment:
    """Check the structure; a budget is absent when there is none, and nothing else is."""
    assert "budget" not in found.model_fields_set
    check(found.model_copy(update={"budget": None}))
    return found


def deploy(site: Site, **more: Any) -> BetaManagedAgentsDeployment:
    body = {
        "name": "Nightly",
        "agent": site.agent(),
        "environment_id": site.environment_id,
        "initial_events": [MESSAGE],
        **more,
    }
    return checked(site.api.beta.deployments.create(**body))


def make_due(site: Site, deployment_id: str) -> datetime:
    """Put a schedule of every minute back, as though the server had been away; say until when."""
    minute = SystemClock().now().replace(second=0, microsecond=0) - timedelta(minutes=1)
    with opened(site.server.data_dir) as db:
        at_us = int(minute.timestamp()) * 1_000_000
        db.execute("UPDATE deployments SET next_us = ? WHERE id = ?", (at_us, deployment_id))
        db.execute("UPDATE leases SET available_us = 0 WHERE key = ?", (deployment_id,))
    return minute


def wait_for_run(site: Site, deployment_id: str) -> BetaManagedAgentsDeploymentRun:
    def look() -> BetaManagedAgentsDeploymentRun | None:
        found = site.api.beta.deployment_runs.list(
            deployment_id=deployment_id, trigger_type="schedule"
        )
        return next(iter(found), None)

    return until(look)


def test_R204_R206_R209_R210_a_new_deployment(site: Site) -> None:
    agent = site.agent()
    made = deploy(site, agent=agent)
    assert made.id.startswith("depl_")
    assert made.type == "deployment"
    assert (made.agent.id, made.agent.version, made.agent.type) == (agent, 1, "agent")
    assert (made.status, made.paused_reason, made.schedule) == ("active", None, None)
    assert (made.description, made.metadata, made.resources, made.vault_ids) == (None, {}, [], [])
    assert site.api.beta.deployments.retrieve(made.id) == made
    for member in ("agent", "environment_id", "name", "initial_events"):
        body = {
            "agent": agent,
            "environment_id": site.environment_id,
            "name": "n",
            "initial_events": [MESSAGE],
        }
        del body[member]
        answer = site.http.post("/v1/deployments", json=body)
        assert answer.status_code == 400
        assert member in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ({"name": ""}, "name"),
        ({"initial_events": []}, "initial_events"),
        ({"initial_events": [MESSAGE] * 51}, "initial_events"),
        ({"initial_events": [{"type": "user.interrupt"}]}, "initial_events"),
        ({"initial_events": [SYSTEM, MESSAGE]}, "system.message"),
        ({"vault_ids": [f"vlt_{n}" for n in range(51)]}, "vault_ids"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"schedule": {"type": "cron", "expression": "0 0 * * *"}}, "timezone"),
        ({"schedule": {**HOURLY, "timezone": "Mars/Olympus"}}, "timezone"),
        ({"schedule": {**HOURLY, "expression": "@daily"}}, "expression"),
        ({"schedule": {**HOURLY, "expression": "0 0 30 2 *"}}, "expression"),
        ({"schedule": {**HOURLY, "type": "interval"}}, "schedule"),
        ({"deployment": 1}, "deployment"),
        ({"agent": {"type": "agent_with_overrides", "id": "agent_1"}}, "agent"),
    ],
)
def test_bad_bodies_name_the_member(site: Site, body: dict[str, Any], match: str) -> None:
    valid = {
        "agent": site.agent(),
        "environment_id": site.environment_id,
        "name": "n",
        "initial_events": [MESSAGE],
    }
    answer = site.http.post("/v1/deployments", json={**valid, **body})
    assert answer.status_code == 400, answer.text
    assert match in answer.json()["error"]["message"]


def test_events_are_echoed_and_sent_to_each_session(site: Site) -> None:
    picture: Any = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
    }
    paper: Any = {"type": "document", "source": {"type": "url", "url": "https://x.test/a.pdf"}}
    both: Any = {"type": "user.message", "content": [picture, paper]}
    made = deploy(site, initial_events=[MESSAGE, both, SYSTEM])
    assert [event.type for event in made.initial_events] == [
        "user.message",
        "user.message",
        "system.message",
    ]
    run = site.api.beta.deployments.run(made.id)
    assert run.session_id is not None
    site.wait(run.session_id, "session.status_idle")
    types = [t for t in site.types(run.session_id) if t.startswith(("user.", "system."))]
    assert types == ["user.message", "user.message", "system.message"]


def test_R205_outcomes_and_files_reach_the_session(site: Site) -> None:
    file_id = site.api.beta.files.upload(file=("rubric.md", b"It is brief.", "text/markdown")).id
    rubric: Any = {"type": "file", "file_id": file_id}
    define: Any = {"type": "user.define_outcome", "description": "a report", "rubric": rubric}
    made = deploy(site, initial_events=[define, MESSAGE, SYSTEM])
    shown = made.initial_events[0]
    assert shown.type == "user.define_outcome"
    assert shown.rubric.to_dict() == rubric
    run = site.api.beta.deployments.run(made.id)
    assert run.session_id is not None
    events = {event.type: event for event in site.wait(run.session_id, "user.define_outcome")}
    assert events["user.define_outcome"].rubric.content == "It is brief."
    site.api.beta.files.delete(file_id)
    failed = site.api.beta.deployments.run(made.id)
    assert failed.error is not None
    assert failed.error.type == "file_not_found_error"
    for wrong in ([SYSTEM], [define, define], [define, SYSTEM], [SYSTEM, MESSAGE]):
        with pytest.raises(anthropic.BadRequestError):
            deploy(site, initial_events=wrong)
    with pytest.raises(anthropic.NotFoundError):
        deploy(site, initial_events=[define])


def test_R206_missing_and_archived_agents(site: Site) -> None:
    with pytest.raises(anthropic.NotFoundError):
        deploy(site, agent="agent_none")
    agent = site.agent()
    site.api.beta.agents.archive(agent)
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        deploy(site, agent=agent)


def test_R212_R213_updates(site: Site) -> None:
    api = site.api.beta.deployments
    agent = site.agent()
    made = deploy(site, agent=agent, schedule=HOURLY, description="d", metadata={"a": "1"})
    site.api.beta.agents.update(agent, system="other")
    assert api.update(made.id, name="Other").agent.version == 1
    changed = checked(api.update(made.id, agent=agent, metadata={"a": None, "b": "2"}))
    assert (changed.agent.version, changed.metadata, changed.name) == (2, {"b": "2"}, "Other")
    assert changed.schedule == made.schedule
    assert changed.updated_at > made.updated_at
    changed = checked(
        api.update(
            made.id, description=None, schedule=None, resources=None, vault_ids=None, budget=None
        )
    )
    assert (changed.description, changed.schedule) == (None, None)
    changed = api.update(made.id, description="", resources=[], vault_ids=[])
    assert (changed.description, changed.resources, changed.vault_ids) == (None, [], [])
    for member in ("name", "agent", "environment_id", "initial_events"):
        answer = site.http.post(f"/v1/deployments/{made.id}", json={member: None})
        assert answer.status_code == 400
        assert "cannot be cleared" in answer.json()["error"]["message"]
        assert member in answer.json()["error"]["message"]


def test_stores_and_vaults_reach_the_session(site: Site, store: str) -> None:
    vault = site.api.beta.vaults.create(display_name="v").id
    resource: Any = {"type": "memory_store", "memory_store_id": store, "access": "read_only"}
    made = deploy(site, resources=[resource], vault_ids=[vault])
    assert made.vault_ids == [vault]
    run = site.api.beta.deployments.run(made.id)
    session = site.api.beta.sessions.retrieve(run.session_id or "")
    assert session.vault_ids == [vault]
    assert [r.type for r in session.resources] == ["memory_store"]


def test_R229_a_budget_reaches_each_session(site: Site) -> None:
    cap: Any = {"type": "limit", "max_list_cost": {"amount": "2000", "currency": "USD"}}
    with pytest.raises(anthropic.BadRequestError, match="model_not_budgetable"):
        deploy(site, budget=cap)
    priced = site.api.beta.agents.create(name="P", model="claude-opus-4-6").id
    api = site.api.beta.deployments
    made = api.create(
        name="n",
        agent=priced,
        environment_id=site.environment_id,
        initial_events=[MESSAGE],
        budget=cap,
    )
    check(made)
    assert made.budget is not None
    assert made.budget.max_list_cost.amount == "2000"
    session = site.api.beta.sessions.retrieve(api.run(made.id).session_id or "")
    assert session.budget is not None
    assert session.budget.to_dict() == cap
    cleared = checked(api.update(made.id, budget=None))
    assert cleared.budget is None
    session = site.api.beta.sessions.retrieve(api.run(made.id).session_id or "")
    assert session.budget is None
    check(api.update(made.id, budget=cap))


def test_R217_R219_a_schedule_shows_its_next_five_times(site: Site) -> None:
    made = deploy(site, schedule=HOURLY)
    assert made.schedule is not None
    assert (made.schedule.type, made.schedule.expression) == ("cron", HOURLY["expression"])
    assert (made.schedule.timezone, made.schedule.last_run_at) == ("Europe/Dublin", None)
    upcoming = made.schedule.upcoming_runs_at or []
    assert len(upcoming) == 5
    now = SystemClock().now()
    assert all((at.minute, at.second, at.utcoffset()) == (0, 0, timedelta(0)) for at in upcoming)
    assert now - timedelta(seconds=30) < upcoming[0] <= now + timedelta(hours=1)
    assert {b - a for a, b in pairwise(upcoming)} == {timedelta(hours=1)}
    paused = site.api.beta.deployments.pause(made.id)
    assert paused.schedule is not None
    assert paused.schedule.upcoming_runs_at
    archived = site.api.beta.deployments.archive(made.id)
    assert archived.schedule is not None
    assert archived.schedule.upcoming_runs_at == []


def test_R209_R210_R222_R223_Q19_pause_unpause_archive(site: Site) -> None:
    api, made = site.api.beta.deployments, deploy(site, schedule=HOURLY)
    paused = checked(api.pause(made.id))
    assert (paused.status, paused.paused_reason and paused.paused_reason.type) == (
        "paused",
        "manual",
    )
    assert api.pause(made.id) == paused
    assert api.run(made.id).session_id is not None
    going = checked(api.unpause(made.id))
    assert (going.status, going.paused_reason) == ("active", None)
    assert api.unpause(made.id) == going
    api.pause(made.id)
    archived = checked(api.archive(made.id))
    assert (archived.status, archived.paused_reason) == ("active", None)
    assert archived.archived_at is not None
    assert api.archive(made.id) == archived
    assert api.retrieve(made.id) == archived
    for act in (api.pause, api.unpause, api.run, lambda one: api.update(one, name="x")):
        with pytest.raises(anthropic.BadRequestError, match="archived"):
            act(made.id)


def test_R016_acts_without_a_body_and_with_an_empty_one(site: Site) -> None:
    made = deploy(site)
    headers = {"content-type": "application/json"}
    for act in ("pause", "unpause", "run", "archive"):
        for content in (b"", b"{}"):
            if act == "archive" or content:
                path = f"/v1/deployments/{made.id}/{act}"
                answer = site.http.post(path, content=content, headers=headers)
                assert answer.status_code == 200, answer.text


@pytest.mark.rule("c4_19")
def test_R230_R231_R233_R235_a_run_by_hand(site: Site) -> None:
    made = deploy(site)
    run = site.api.beta.deployments.run(made.id)
    check(run)
    assert run.id.startswith("drun_")
    assert (run.deployment_id, run.agent, run.error) == (made.id, made.agent, None)
    assert run.trigger_context.type == "manual"
    assert run.session_id is not None
    session = site.api.beta.sessions.retrieve(run.session_id)
    assert session.deployment_id == made.id
    found = site.api.beta.sessions.list(deployment_id=made.id)
    assert [one.id for one in found] == [run.session_id]
    assert list(site.api.beta.sessions.list(deployment_id="depl_none")) == []
    other = site.session()
    assert other.deployment_id is None
    site.wait(run.session_id, "session.status_idle")
    site.api.beta.sessions.delete(run.session_id)
    assert site.api.beta.deployment_runs.retrieve(run.id) == run


def test_Q16_R230_a_run_by_hand_that_fails_is_an_answer(site: Site) -> None:
    environment = site.environment()
    made = deploy(site, environment_id=environment)
    site.api.beta.environments.archive(environment)
    run = site.api.beta.deployments.run(made.id)
    check(run)
    assert run.session_id is None
    assert run.error is not None
    assert run.error.type == "environment_archived_error"
    assert environment in run.error.message
    assert site.api.beta.deployments.retrieve(made.id).status == "active"


def test_R224_an_archived_agent_takes_its_deployments_along(site: Site) -> None:
    agent = site.agent()
    made, plain = deploy(site, agent=agent, schedule=HOURLY), deploy(site, agent=agent)
    site.api.beta.agents.archive(agent)
    for one in (made, plain):
        assert site.api.beta.deployments.retrieve(one.id).archived_at is not None
        assert list(site.api.beta.deployment_runs.list(deployment_id=one.id)) == []


def test_R211_lists_of_deployments(site: Site) -> None:
    api, agent = site.api.beta.deployments, site.agent()
    made = [deploy(site, agent=agent) for _ in range(5)]
    ids = [one.id for one in reversed(made)]
    assert [one.id for one in api.list(agent_id=agent)] == ids
    assert [one.id for one in api.list(agent_id=agent, limit=2)] == ids
    first = api.list(agent_id=agent, limit=2)
    assert len(first.data) == 2
    for one in first.data:
        checked(one)
    api.pause(ids[0])
    api.archive(ids[1])
    assert [one.id for one in api.list(agent_id=agent, status="paused")] == [ids[0]]
    assert [one.id for one in api.list(agent_id=agent, status="active")] == ids[2:]
    assert [one.id for one in api.list(agent_id=agent, include_archived=True)] == ids
    with pytest.raises(anthropic.BadRequestError, match="include_archived"):
        api.list(status="active", include_archived=True)
    with pytest.raises(anthropic.BadRequestError, match="status"):
        api.list(status="archived")  # type: ignore[arg-type]  what the SDK would not send
    at = made[2].created_at
    assert [one.id for one in api.list(agent_id=agent, created_at_gte=at)] == [ids[0], ids[2]]
    assert [one.id for one in api.list(agent_id=agent, created_at_lte=at)] == ids[2:]
    with pytest.raises(anthropic.BadRequestError, match="filters"):
        api.list(agent_id=agent, limit=2, status="active", page=first.next_page or "")
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        api.list(limit=101)


def test_R232_lists_of_runs(site: Site) -> None:
    environment = site.environment()
    made = deploy(site, environment_id=environment)
    runs = [site.api.beta.deployments.run(made.id) for _ in range(3)]
    site.api.beta.environments.archive(environment)
    runs.append(site.api.beta.deployments.run(made.id))
    ids = [run.id for run in reversed(runs)]
    api = site.api.beta.deployment_runs

    def found(**query: Any) -> list[str]:
        return [run.id for run in api.list(deployment_id=made.id, **query)]

    assert found() == found(limit=1) == found(limit=1000) == found(trigger_type="manual") == ids
    assert found(has_error=True) == ids[:1]
    assert found(has_error=False) == ids[1:]
    assert found(trigger_type="schedule") == []
    at = runs[2].created_at
    assert found(created_at_gte=at) == ids[:2]
    assert found(created_at_gt=at) == ids[:1]
    assert found(created_at_lte=at) == ids[1:]
    assert found(created_at_lt=at) == ids[2:]
    assert list(api.list(deployment_id="depl_none")) == []
    assert set(ids) <= {run.id for run in api.list(limit=1000)}
    for wrong, match in (
        ({"limit": 1001}, "limit"),
        ({"limit": 0}, "limit"),
        ({"page": "page_x"}, "page"),
        ({"trigger_type": "cron"}, "trigger_type"),
        ({"created_at_gt": "yesterday"}, "created_at"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=match):
            api.list(**wrong)  # type: ignore[arg-type]  what the SDK would not send


def test_nothing_is_found_under_other_ids(site: Site) -> None:
    api = site.api.beta.deployments
    for act in (api.retrieve, api.pause, api.unpause, api.archive, api.run, api.update):
        with pytest.raises(anthropic.NotFoundError, match="no deployment 'depl_none'"):
            act("depl_none")
        with pytest.raises(anthropic.NotFoundError):
            act(site.environment_id)
    with pytest.raises(anthropic.NotFoundError, match="no deployment run"):
        site.api.beta.deployment_runs.retrieve("drun_none")


async def test_the_async_sdk_and_raw_and_streamed_answers(
    site: Site, async_client: AsyncAnthropic
) -> None:
    api = async_client.beta.deployments
    body: Any = {
        "name": "n",
        "agent": site.agent(),
        "environment_id": site.environment_id,
        "initial_events": [MESSAGE],
        "schedule": HOURLY,
    }
    made = checked(await api.create(**body))
    assert checked(await api.retrieve(made.id)) == made
    assert checked(await api.update(made.id, name="o")).name == "o"
    assert checked(await api.pause(made.id)).status == "paused"
    assert checked(await api.unpause(made.id)).status == "active"
    run = await api.run(made.id)
    check(run)
    assert made.id in [one.id async for one in api.list(agent_id=made.agent.id, limit=1)]
    runs = async_client.beta.deployment_runs
    assert [one.id async for one in runs.list(deployment_id=made.id)] == [run.id]
    raw = await runs.with_raw_response.retrieve(run.id)
    assert raw.headers["content-type"] == "application/json"
    assert await raw.parse() == run
    async with api.with_streaming_response.archive(made.id) as streamed:
        assert checked(await streamed.parse()).archived_at is not None


def test_raw_answers_of_each_method(site: Site) -> None:
    made = deploy(site)
    api = site.api.beta.deployments.with_raw_response
    for act in (api.retrieve, api.pause, api.unpause, api.run, api.archive):
        answer = act(made.id)
        assert answer.status_code == 200
        assert answer.headers["request-id"].startswith("req_")
    assert api.list(include_archived=True).status_code == 200
    assert site.api.beta.deployment_runs.with_raw_response.list().status_code == 200


def test_R005_without_the_beta_header_it_is_refused(site: Site, client: Anthropic) -> None:
    for path in ("/v1/deployments", "/v1/deployment_runs"):
        answer = site.http.get(path, headers={"anthropic-beta": ""})
        assert answer.status_code == 400
        assert "managed-agents-2026-04-01" in answer.json()["error"]["message"]


def test_R218_R221_R231_the_server_fires_schedules(site: Site) -> None:
    every_minute = {**HOURLY, "expression": "* * * * *"}
    made = deploy(site, schedule=every_minute)
    nominal = make_due(site, made.id)
    run = wait_for_run(site, made.id)
    check(run)
    assert run.trigger_context.type == "schedule"
    # The minute that was missed, or the next one if it came meanwhile.
    assert run.trigger_context.scheduled_at - nominal <= timedelta(minutes=1)
    assert run.trigger_context.scheduled_at >= nominal.astimezone(UTC)
    assert run.session_id is not None
    assert site.api.beta.sessions.retrieve(run.session_id).deployment_id == made.id
    site.wait(run.session_id, "session.status_idle")
    found = checked(site.api.beta.deployments.archive(made.id))
    assert found.schedule is not None
    assert found.schedule.last_run_at is not None
    assert timedelta(0) <= run.created_at - found.schedule.last_run_at < timedelta(seconds=1)


@pytest.mark.parametrize("what", ["environment", "vault", "vault_deleted", "memory_store"])
def test_R210_R227_a_scheduled_run_that_fails_pauses(site: Site, what: str) -> None:
    beta, more = site.api.beta, {}
    if what == "environment":
        more["environment_id"] = site.environment()
        undo, type = lambda: beta.environments.archive(more["environment_id"]), f"{what}_archived"
    elif what == "memory_store":
        store = beta.memory_stores.create(name="s").id
        more["resources"] = [{"type": "memory_store", "memory_store_id": store}]
        undo, type = lambda: beta.memory_stores.archive(store), f"{what}_archived"
    else:
        vault = beta.vaults.create(display_name="v").id
        more["vault_ids"] = [vault]
        deleted = what == "vault_deleted"
        undo = lambda: (beta.vaults.delete if deleted else beta.vaults.archive)(vault)  # noqa: E731  one of four
        type = "vault_not_found" if deleted else "vault_archived"
    made = deploy(site, schedule={**HOURLY, "expression": "* * * * *"}, **more)
    undo()
    make_due(site, made.id)
    run = wait_for_run(site, made.id)
    check(run)
    assert run.error is not None
    assert run.error.type == f"{type}_error"
    found = checked(beta.deployments.retrieve(made.id))
    assert found.status == "paused"
    assert found.paused_reason is not None
    assert found.paused_reason.type == "error"
    assert found.paused_reason.to_dict() == {"type": "error", "error": {"type": f"{type}_error"}}
