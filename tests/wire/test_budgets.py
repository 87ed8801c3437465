"""Budgets and usage through the official SDK, with a script that says what it used."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.site import MESSAGE, Site
from tests.wire.structure import check
from tests.wire.test_session_rules import PROBE
from tests.wire.test_sessions import code_of

MODELS = """
models:
  - id: scripted/spender
    display_name: Spender
    prices: {standard: {input: "1", output: "1", cache_read: "1",
                        cache_write_5m: "1", cache_write_1h: "1"}}
"""
REST = ["session.thread_status_idle", "session.usage", "session.status_idle"]


def limit(cents: object, currency: str = "USD") -> Any:
    return {"type": "limit", "max_list_cost": {"amount": cents, "currency": currency}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("budgets")
    (root / "models.yaml").write_text(MODELS)
    settings = {"model_scripts": str(SCRIPTS), "models_file": str(root / "models.yaml")}
    with running(root / "data", **settings) as started:
        yield started


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[AsyncAnthropic]:
    made = AsyncAnthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0)
    async with made:
        yield made


def spender(api: Anthropic, script: str = "spender") -> str:
    return api.beta.agents.create(name="A", model=f"scripted/{script}", tools=[PROBE]).id


def spend(site: Site, cents: str = "10", **more: Any) -> tuple[str, list[Any]]:
    """Return a session that waits for its tool, at its cap or not, and its log."""
    made = site.session(
        agent=spender(site.api), budget=limit(cents), initial_events=[MESSAGE], **more
    )
    check(made, nullable=False)
    return made.id, site.wait(made.id, "session.status_idle")


def answer(site: Site, session_id: str, log: list[Any]) -> list[Any]:
    (call,) = [event for event in log if event.type == "agent.custom_tool_use"]
    reply: Any = {"type": "user.custom_tool_result", "custom_tool_use_id": call.id}
    site.api.beta.sessions.events.send(session_id, events=[reply])
    return site.wait(session_id, "session.status_idle", 2)


def test_c12_1_c12_3_a_budget_is_shown_changed_and_removed(site: Site) -> None:
    made = site.session(agent=spender(site.api), budget=limit("125"))
    check(made, nullable=False)
    assert made.budget is not None
    assert made.budget.to_dict() == limit("125")
    sessions = site.api.beta.sessions
    lower = sessions.update(made.id, budget=limit("5"))
    assert lower.budget is not None
    assert lower.budget.max_list_cost.amount == "5"
    assert sessions.update(made.id, budget=limit("5")).updated_at == lower.updated_at
    (listed,) = [s for s in sessions.list() if s.id == made.id]
    assert listed.budget == lower.budget
    gone = sessions.update(made.id, budget=None)
    assert gone.to_dict()["budget"] is None
    told = [e.to_dict() for e in site.events(made.id)]
    assert [(e["type"], e["budget"]) for e in told] == [
        ("session.updated", limit("5")),
        ("session.updated", None),
    ]


def test_c12_2_a_budget_cannot_be_added_later_or_again(site: Site) -> None:
    plain = site.session(agent=spender(site.api))
    removed = site.session(agent=spender(site.api), budget=limit("5"))
    site.api.beta.sessions.update(removed.id, budget=None)
    for session_id in (plain.id, removed.id):
        with pytest.raises(anthropic.BadRequestError, match="budget_create_only") as caught:
            site.api.beta.sessions.update(session_id, budget=limit("5"))
        assert code_of(caught.value) == "budget_create_only"


@pytest.mark.parametrize("wrong", ["0", "-5", "05", "25.00", 125, "", "1" * 16])
def test_c12_1_wrong_amounts_are_named(site: Site, wrong: object) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"budget.max_list_cost.amount"):
        site.session(agent=spender(site.api), budget=limit(wrong))


def test_c12_1_dollars_only_and_nothing_else_inside(site: Site) -> None:
    for wrong, named in (
        (limit("5", "EUR"), "budget.max_list_cost.currency"),
        ({**limit("5"), "soft": True}, "budget.soft"),
        ({**limit("5"), "type": "wish"}, "budget.type"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=named):
            site.session(agent=spender(site.api), budget=wrong)


@pytest.mark.rule("R281")
def test_c12_5_a_model_without_a_price_takes_no_budget(site: Site) -> None:
    with pytest.raises(anthropic.BadRequestError, match="no list price is available") as caught:
        site.session(agent=spender(site.api, "unpriced"), budget=limit("5"))
    assert code_of(caught.value) == "model_not_budgetable"


def test_c10_28_cost_is_absent_once_something_had_no_price(site: Site) -> None:
    made = site.session(agent=spender(site.api, "unpriced"))
    assert made.usage.to_dict()["list_cost"] == {"amount": "0", "currency": "USD"}
    site.api.beta.sessions.events.send(made.id, events=[MESSAGE])
    (usage,) = [e for e in site.wait(made.id, "session.status_idle") if e.type == "session.usage"]
    assert "list_cost" not in usage.to_dict()["usage"]
    assert usage.to_dict()["budget"] is None
    shown = site.api.beta.sessions.retrieve(made.id)
    assert "list_cost" not in shown.usage.to_dict()
    assert shown.usage.output_tokens == 100_000


@pytest.mark.rule("c12_8", "c15_23", "R284", "R286", "R287")
def test_c12_6_a_session_pauses_at_its_cap_and_goes_on_when_it_is_raised(site: Site) -> None:
    session_id, log = spend(site)
    assert log[-1].stop_reason.type == "requires_action", "the open call goes first"
    log = answer(site, session_id, log)
    assert [event.type for event in log[-3:]] == REST
    thread, usage, whole = log[-3:]
    for event in (thread, usage, whole):
        check(event, nullable=False)
    assert thread.stop_reason.type == whole.stop_reason.type == "budget_reached"
    assert usage.budget.to_dict() == limit("10")
    assert usage.usage.list_cost.amount == "10"
    assert len([e for e in log if e.type == "span.model_request_start"]) == 1
    with pytest.raises(anthropic.BadRequestError, match="consumed list cost") as caught:
        site.api.beta.sessions.update(session_id, budget=limit("10"))
    assert code_of(caught.value) == "budget_not_raised"
    site.api.beta.sessions.update(session_id, budget=limit("50"))
    after = site.wait(session_id, "session.status_idle", 3)[len(log) :]
    assert [event.type for event in after] == [
        "session.updated",
        "session.status_running",
        "session.thread_status_running",
        "span.model_request_start",
        "agent.message",
        "span.model_request_end",
        *REST,
    ]
    assert after[-1].stop_reason.type == "end_turn"


def test_c12_7_c12_9_what_a_session_takes_at_its_cap(site: Site) -> None:
    session_id, log = spend(site)
    before = answer(site, session_id, log)
    send = site.api.beta.sessions.events.send
    with pytest.raises(anthropic.BadRequestError) as caught:
        send(session_id, events=[MESSAGE])
    for name in ("tool_confirmation", "tool_result", "custom_tool_result", "interrupt"):
        assert f"user.{name}" in str(caught.value)
    assert code_of(caught.value) == "budget_reached"
    (echo,) = send(session_id, events=[{"type": "user.interrupt"}]).data or []
    assert echo.type == "user.interrupt"
    assert [e.id for e in site.events(session_id)] == [e.id for e in before]
    assert site.api.beta.sessions.retrieve(session_id).status == "idle"
    site.api.beta.sessions.update(session_id, budget=None)
    site.wait(session_id, "session.status_idle", 3)
    send(session_id, events=[MESSAGE])
    assert site.wait(session_id, "session.status_idle", 4)[-1].stop_reason.type == "end_turn"


def test_c12_11_usage_adds_up_on_session_thread_and_events(site: Site) -> None:
    session_id, log = spend(site, "900")
    log = answer(site, session_id, log)
    shown = site.api.beta.sessions.retrieve(session_id).usage.to_dict()
    spans = [e.model_usage.to_dict() for e in log if e.type == "span.model_request_end"]
    for name in ("input_tokens", "output_tokens", "cache_read_input_tokens"):
        assert shown[name] == sum(span[name] for span in spans)
    ages = {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 0}
    assert shown["cache_creation"] == ages
    assert shown["list_cost"] == {"amount": "11", "currency": "USD"}
    told = [e for e in log if e.type == "session.usage"][-1].usage.to_dict()
    assert {**told, "active_seconds": 0} == {**shown, "active_seconds": 0}
    (thread,) = site.api.beta.sessions.threads.list(session_id)
    assert thread.usage is not None
    used = thread.usage.to_dict()
    assert {**used, "active_seconds": 0} == {**shown, "active_seconds": 0}
    assert thread.stats is not None
    assert used["active_seconds"] == thread.stats.active_seconds


def test_an_archived_session_keeps_its_budget_as_it_was(site: Site) -> None:
    session_id, log = spend(site)
    answer(site, session_id, log)
    archived = site.api.beta.sessions.archive(session_id)
    assert archived.budget is not None
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        site.api.beta.sessions.update(session_id, budget=None)


@pytest.mark.anyio
async def test_the_asynchronous_client_and_raw_answers(
    async_client: AsyncAnthropic, site: Site
) -> None:
    made = await async_client.beta.sessions.create(
        agent=spender(site.api), environment_id=site.environment_id, budget=limit("7")
    )
    raw = await async_client.beta.sessions.with_raw_response.update(made.id, budget=limit("8"))
    assert raw.http_response.json()["budget"] == limit("8")
    async for session in async_client.beta.sessions.list(limit=1):
        assert session.budget is None or session.budget.type == "limit"
        break
