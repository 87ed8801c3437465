"""Sessions and threads through the official SDK."""

from datetime import timedelta
from typing import Any

import anthropic
import pytest

from tests.wire.site import MESSAGE, Site
from tests.wire.structure import check


def code_of(error: anthropic.APIStatusError) -> object:
    body: Any = error.body
    return body["error"]["details"]["error_code"]


@pytest.mark.rule("c4_23", "c10_1", "c10_9", "c10_15")
def test_a_session_has_the_documented_shape(site: Site) -> None:
    made = site.session(title="T", metadata={"a": "1"})
    check(made, nullable=False)
    assert (made.status, made.title, made.metadata) == ("idle", "T", {"a": "1"})
    assert (made.resources, made.vault_ids, made.outcome_evaluations) == ([], [], [])
    assert made.id.startswith("sesn_")
    shown = made.to_dict()
    for nullable in ("archived_at", "budget", "deployment_id", "title"):
        assert nullable in shown
    assert shown["usage"]["list_cost"] == {"amount": "0", "currency": "USD"}
    again = site.api.beta.sessions.retrieve(made.id)
    assert {**again.to_dict(), "stats": None} == {**shown, "stats": None}


@pytest.mark.rule("c10_3", "c10_4", "c10_5")
def test_10_2_the_forms_of_an_agent(site: Site) -> None:
    agent_id = site.agent()
    site.api.beta.agents.update(agent_id, system="newer")
    forms: list[Any] = [
        agent_id,
        {"type": "agent", "id": agent_id},
        {"type": "agent", "id": agent_id, "version": 1},
        {"type": "agent_with_overrides", "id": agent_id, "system": None, "tools": []},
    ]
    made = [
        site.api.beta.sessions.create(agent=form, environment_id=site.environment_id)
        for form in forms
    ]
    assert [(s.agent.version, s.agent.system) for s in made] == [
        (2, "newer"),
        (2, "newer"),
        (1, None),
        (2, None),
    ]
    assert made[3].agent.tools == []
    with pytest.raises(anthropic.BadRequestError) as caught:
        site.api.beta.sessions.create(
            agent={"type": "agent_with_overrides", "id": agent_id, "model": None},  # type: ignore[typeddict-item]
            environment_id=site.environment_id,
        )
    assert code_of(caught.value) == "agent_model_required"


def test_10_10_initial_events_run_at_once(site: Site) -> None:
    made = site.session(initial_events=[MESSAGE, MESSAGE])
    assert made.status == "running"
    log = site.wait(made.id, "session.status_idle")
    assert [e.type for e in log][:4] == [
        "session.status_running",
        "session.thread_status_running",
        "user.message",
        "user.message",
    ]


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ({"initial_events": [{"type": "user.interrupt"}]}, "initial_events"),
        ({"initial_events": [MESSAGE] * 51}, "initial_events"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"vault_ids": ["vlt_1"] * 101}, "vault_ids"),
        ({"title": "x" * 513}, "title"),
        ({"extra_body": {"surprise": 1}}, "surprise"),
    ],
)
@pytest.mark.rule("c10_11", "c10_12")
def test_bad_sessions_are_refused_whole(site: Site, body: dict[str, Any], match: str) -> None:
    agent_id = site.agent()
    with pytest.raises(anthropic.BadRequestError, match=match):
        site.api.beta.sessions.create(agent=agent_id, environment_id=site.environment_id, **body)
    assert list(site.api.beta.sessions.list(agent_id=agent_id)) == []


def test_amb_32_missing_parts_are_not_found(site: Site) -> None:
    with pytest.raises(anthropic.NotFoundError):
        site.session(environment_id="env_none")
    with pytest.raises(anthropic.NotFoundError):
        site.session(agent="agent_none")


@pytest.mark.rule("c4_7", "c10_16", "c10_17", "c10_19", "R041", "R109")
def test_updates_are_told_in_the_log(site: Site) -> None:
    made = site.session(metadata={"a": "1"})
    changed = site.api.beta.sessions.update(made.id, title="new", metadata={"a": None, "b": "2"})
    assert (changed.title, changed.metadata) == ("new", {"b": "2"})
    assert changed.updated_at > made.updated_at
    (told,) = site.events(made.id)
    check(told, nullable=False)
    assert (told.type, told.title, told.metadata) == ("session.updated", "new", {"b": "2"})
    changed = site.api.beta.sessions.update(made.id, agent={"tools": []})
    assert changed.agent.tools == []
    with pytest.raises(anthropic.BadRequestError, match="vault_ids"):
        site.api.beta.sessions.update(made.id, vault_ids=["vlt_1"])


@pytest.mark.rule("c4_21", "c10_14", "c13_20")
def test_10_22_archived_sessions_are_read_only_and_hidden(site: Site) -> None:
    made = site.session()
    ended = site.api.beta.sessions.archive(made.id)
    assert ended.status == "terminated"
    assert ended.archived_at is not None
    assert site.api.beta.sessions.archive(made.id).archived_at == ended.archived_at
    assert site.types(made.id)[-1] == "session.status_terminated"
    with pytest.raises(anthropic.BadRequestError, match="terminated"):
        site.api.beta.sessions.events.send(made.id, events=[MESSAGE])
    agent_id = made.agent.id
    assert list(site.api.beta.sessions.list(agent_id=agent_id)) == []
    hidden = site.api.beta.sessions.list(agent_id=agent_id, include_archived=True)
    assert [s.id for s in hidden] == [made.id]
    frozen = site.api.beta.sessions.retrieve(made.id).stats.duration_seconds
    assert site.api.beta.sessions.retrieve(made.id).stats.duration_seconds == frozen


def test_10_23_deleted_sessions_are_gone(site: Site) -> None:
    made = site.session()
    gone = site.api.beta.sessions.delete(made.id)
    check(gone)
    assert gone.id == made.id
    for call in (
        lambda: site.api.beta.sessions.retrieve(made.id),
        lambda: site.events(made.id),
        lambda: site.api.beta.sessions.delete(made.id),
        lambda: site.api.beta.sessions.events.stream(made.id),
    ):
        with pytest.raises(anthropic.NotFoundError):
            call()


@pytest.mark.rule("c4_11", "c4_18")
def test_pages_lead_on_and_back(site: Site) -> None:
    agent_id = site.agent()
    made = [
        site.api.beta.sessions.create(agent=agent_id, environment_id=site.environment_id).id
        for _ in range(5)
    ]
    for order, expected in (("desc", made[::-1]), ("asc", made)):
        query: Any = {"agent_id": agent_id, "limit": 2, "order": order}
        assert [s.id for s in site.api.beta.sessions.list(**query)] == expected
        first = site.http.get("/v1/sessions", params=query).json()
        assert first["prev_page"] is None
        second = site.http.get("/v1/sessions", params={**query, "page": first["next_page"]}).json()
        back = site.http.get("/v1/sessions", params={**query, "page": second["prev_page"]}).json()
        assert [s["id"] for s in back["data"]] == expected[:2]
        assert back["prev_page"] is None
        forth = site.http.get("/v1/sessions", params={**query, "page": back["next_page"]}).json()
        assert [s["id"] for s in forth["data"]] == expected[2:4]


@pytest.mark.rule("c4_17", "R028")
def test_4_14_and_4_15_cursors_are_bound_to_what_made_them(site: Site) -> None:
    agent_id = site.agent()
    for _ in range(3):
        last = site.api.beta.sessions.create(agent=agent_id, environment_id=site.environment_id)
    page = site.api.beta.sessions.list(agent_id=agent_id, limit=1)
    assert page.next_page
    with pytest.raises(anthropic.BadRequestError, match="page"):
        site.api.beta.sessions.list(order="asc", page=page.next_page)
    with pytest.raises(anthropic.BadRequestError, match="cursor"):
        site.api.beta.sessions.list(
            page=page.next_page, created_at_gt=last.created_at + timedelta(hours=1)
        )
    wider = site.api.beta.sessions.list(agent_id=agent_id, page=page.next_page, limit=50)
    assert len(wider.data) == 2
    for limit in (0, 101):
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            site.api.beta.sessions.list(limit=limit)


def test_4_19_filters(site: Site) -> None:
    made = site.session()
    agent_id = made.agent.id
    sessions = site.api.beta.sessions
    assert [s.id for s in sessions.list(agent_id=agent_id, agent_version=1)] == [made.id]
    assert list(sessions.list(agent_id=agent_id, agent_version=2)) == []
    assert [s.id for s in sessions.list(agent_id=agent_id, statuses=["idle"])] == [made.id]
    assert list(sessions.list(agent_id=agent_id, statuses=["running", "terminated"])) == []
    assert list(sessions.list(agent_id=agent_id, deployment_id="depl_1")) == []
    assert list(sessions.list(agent_id=agent_id, memory_store_id="memstore_1")) == []
    at = made.created_at
    assert len(list(sessions.list(agent_id=agent_id, created_at_gte=at))) == 1
    assert list(sessions.list(agent_id=agent_id, created_at_gt=at)) == []
    assert len(list(sessions.list(agent_id=agent_id, created_at_lte=at))) == 1
    assert list(sessions.list(agent_id=agent_id, created_at_lt=at)) == []


@pytest.mark.rule("c15_2", "c19_1", "c19_4", "c19_5")
def test_19_every_session_has_its_primary_thread(site: Site) -> None:
    made = site.session()
    threads = site.api.beta.sessions.threads
    (fresh,) = threads.list(made.id)
    check(fresh, nullable=False)
    assert (fresh.parent_thread_id, fresh.stats, fresh.usage) == (None, None, None)
    assert threads.retrieve(fresh.id, session_id=made.id).id == fresh.id
    site.api.beta.sessions.events.send(made.id, events=[MESSAGE])
    log = site.wait(made.id, "session.status_idle")
    (rested,) = threads.list(made.id)
    check(rested, nullable=False)
    assert rested.status == "idle"
    assert rested.stats is not None
    assert rested.usage is not None
    announced = next(e for e in log if e.type == "session.thread_status_running")
    assert announced.session_thread_id == fresh.id
    shown = threads.events.list(fresh.id, session_id=made.id)
    assert [e.id for e in shown] == [e.id for e in log]
    assert list(threads.list(made.id, statuses=["running"])) == []
    with pytest.raises(anthropic.NotFoundError):
        threads.retrieve("sthr_other", session_id=made.id)
    with pytest.raises(anthropic.BadRequestError, match="primary"):
        threads.archive(fresh.id, session_id=made.id)
