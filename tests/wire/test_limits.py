"""Rate and spend limits through the official SDK, kept against a provider of our own."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import anyio
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anyio.from_thread import start_blocking_portal

from tests.engines import opened
from tests.fakes.messages_server import FakeMessages, Fault
from tests.wire.host import Server, running
from tests.wire.site import Site, until
from tests.wire.structure import check

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

LIMITS = """
groups:
  - display_name: Claude Opus 4.x
    limits: {requests_per_minute: 600, output_tokens_per_minute: 100000}
  - display_name: Slow
    models: [slow-model]
    limits: {requests_per_minute: 60}
"""
OPUS = "claude-opus-4-8"
# 400 tokens at 25 dollars a million are a cent; the fake says 7, so this many make about one.
HELLO: Any = {"max_tokens": 64, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def fake() -> FakeMessages:
    return FakeMessages.saying([{"type": "text", "text": "Good morning."}])


@pytest.fixture(scope="module")
def metered(fake: FakeMessages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("limits")
    (folder / "limits.yaml").write_text(LIMITS)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(fake.running()) as base_url,
        running(
            folder / "data",
            model_base_url=base_url,
            model_api_key="sk-x",
            limits_file=str(folder / "limits.yaml"),
        ) as started,
    ):
        yield started


@pytest.fixture
def api(metered: Server, fake: FakeMessages) -> Iterator[Anthropic]:
    fake.faults.clear()
    with Anthropic(base_url=metered.base_url, api_key=metered.api_key, max_retries=0) as made:
        yield made
        for limit in made.beta.organization.spend_limits.list():
            made.beta.organization.spend_limits.delete(limit.id)


@pytest.fixture
async def async_api(api: Anthropic, metered: Server) -> AsyncIterator[AsyncAnthropic]:
    made = AsyncAnthropic(base_url=metered.base_url, api_key=metered.api_key, max_retries=0)
    async with made:
        yield made


@pytest.fixture
def tenant(metered: Server, api: Anthropic) -> Iterator[tuple[str, Anthropic]]:
    """A workspace of its own and a client in it."""
    workspace = api.beta.organization.workspaces.create(name="tenant").id
    answer = httpx2.post(
        f"{metered.base_url}/x/keys",
        headers={"x-api-key": metered.api_key, "anthropic-workspace-id": workspace},
        json={"name": "k", "scopes": ["workspace:developer", "workspace:inference"]},
    )
    with Anthropic(base_url=metered.base_url, api_key=answer.json()["key"], max_retries=0) as made:
        yield workspace, made


def entry_of(api: Anthropic, model: str) -> str:
    (entry,) = api.beta.organization.rate_limits.list(model=model).data
    return entry.id


def rows(server: Server, query: str) -> list[Any]:
    with opened(server.data_dir) as db:
        return db.execute(query)


def test_R370_all_entries_come_on_one_page_and_an_unknown_model_is_not_found(
    api: Anthropic,
) -> None:
    org = api.beta.organization.rate_limits
    whole = org.list()
    check(whole)
    for entry in whole.data:
        check(entry)
    assert whole.next_page is None
    by_name = {getattr(e.group, "display_name", e.group.type): e for e in whole.data}
    opus = by_name["Claude Opus 4.x"]
    assert {v.type: v.value for v in opus.limits} == {
        "requests_per_minute": 600,
        "output_tokens_per_minute": 100_000,
    }
    assert OPUS in (opus.models or [])
    assert by_name["files"].models is None
    walked = [entry.id for entry in org.list(limit=2)]
    assert walked == [entry.id for entry in whole.data]
    assert [e.id for e in org.list(model=OPUS)] == [opus.id]
    assert {e.group.type for e in org.list(group_type="model_group")} == {"model_group"}
    assert org.list(group_type="batch").data == []
    with pytest.raises(anthropic.NotFoundError):
        org.list(model="no-such-model")
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        org.list(limit=1001)
    page = org.list(limit=1).next_page
    with pytest.raises(anthropic.BadRequestError, match="other filters"):
        org.list(limit=1, page=page, group_type="files")


async def test_the_same_through_the_async_client(async_api: AsyncAnthropic) -> None:
    org = async_api.beta.organization
    found = [entry async for entry in org.rate_limits.list(limit=3)]
    raw = await org.rate_limits.with_raw_response.list()
    assert [e.id for e in (await raw.parse()).data] == [e.id for e in found]
    async with org.rate_limits.with_streaming_response.list() as streamed:
        assert len((await streamed.json())["data"]) == len(found)
    workspace = await org.workspaces.create(name="async")
    made = await org.workspaces.rate_limits.update(
        found[0].id,
        workspace_id=workspace.id,
        limits=[{"type": "requests_per_minute", "value": 5}],
    )
    check(made)
    own = [entry async for entry in org.workspaces.rate_limits.list(workspace.id)]
    assert own == [made]
    limit = await org.spend_limits.set(
        amount="5000", scope={"type": "workspace", "workspace_id": workspace.id}
    )
    check(limit)
    assert await org.spend_limits.retrieve(limit.id) == limit
    assert [x.id async for x in org.spend_limits.list(workspace_id=workspace.id)] == [limit.id]
    gone = await org.spend_limits.delete(limit.id)
    check(gone)
    assert (gone.id, gone.type) == (limit.id, "spend_limit_deleted")


def test_R371_a_workspaces_own_limits_and_what_it_inherits(
    api: Anthropic, tenant: tuple[str, Anthropic]
) -> None:
    workspace, _ = tenant
    own, entry = api.beta.organization.workspaces.rate_limits, entry_of(api, OPUS)
    assert own.list(workspace).data == []
    made = own.update(
        entry,
        workspace_id=workspace,
        limits=[
            {"type": "requests_per_minute", "value": 9000},
            {"type": "tokens_per_day", "value": 5},
        ],
    )
    check(made)
    shown = {v.type: (v.value, v.org_limit, v.source.type) for v in made.limits}
    assert shown == {
        "requests_per_minute": (9000, 600, "workspace"),
        "tokens_per_day": (5, None, "workspace"),
    }
    changed = own.update(
        entry, workspace_id=workspace, limits=[{"type": "tokens_per_day", "value": None}]
    )
    assert [v.type for v in changed.limits] == ["requests_per_minute"]
    assert own.list(workspace).data == [changed]
    inherited = own.list(workspace, include_inherited=True)
    check(inherited)
    found = {e.rate_limit_id: {v.type: v.source.type for v in e.limits} for e in inherited.data}
    assert found[entry] == {
        "requests_per_minute": "workspace",
        "output_tokens_per_minute": "organization",
    }
    assert len(found) == 2  # and the slow group, which it only inherits
    with pytest.raises(anthropic.NotFoundError):
        own.list("wrkspc_no")
    bad: Any
    for bad in (
        [{"type": "requests_per_minute", "value": -1}],
        [{"type": "requests_per_minute", "value": 1.5}],
        [{"type": "widgets", "value": 1}],
        [{"type": "tool_uses_per_second", "value": 1}],
        [{"type": "tokens_per_day", "value": 1}] * 2,
    ):
        with pytest.raises(anthropic.BadRequestError):
            own.update(entry, workspace_id=workspace, limits=bad)


def test_messages_over_a_rate_are_refused_with_headers_and_nobody_else_is(
    api: Anthropic, tenant: tuple[str, Anthropic]
) -> None:
    workspace, theirs = tenant
    api.beta.organization.workspaces.rate_limits.update(
        entry_of(api, OPUS),
        workspace_id=workspace,
        limits=[{"type": "requests_per_minute", "value": 2}],
    )
    raw = theirs.messages.with_raw_response.create(model=OPUS, **HELLO)
    assert raw.headers["anthropic-ratelimit-requests-limit"] == "2"
    assert raw.headers["anthropic-ratelimit-requests-remaining"] == "1"
    assert raw.headers["anthropic-ratelimit-output-tokens-limit"] == "100000"
    theirs.messages.create(model=OPUS, **HELLO)
    with pytest.raises(anthropic.RateLimitError, match="this workspace's rate limit of 2") as no:
        theirs.messages.create(model=OPUS, **HELLO)
    headers = no.value.response.headers
    assert 1 <= int(headers["retry-after"]) <= 30
    assert headers["anthropic-ratelimit-requests-remaining"] == "0"
    with pytest.raises(anthropic.RateLimitError), theirs.messages.stream(model=OPUS, **HELLO):
        pass
    theirs.messages.create(model="claude-sonnet-5", **HELLO)  # another group
    api.messages.create(model=OPUS, **HELLO)  # another workspace


def test_counting_tokens_has_its_own_limit(api: Anthropic, tenant: tuple[str, Anthropic]) -> None:
    workspace, theirs = tenant
    (entry,) = api.beta.organization.rate_limits.list(group_type="token_count").data
    api.beta.organization.workspaces.rate_limits.update(
        entry.id, workspace_id=workspace, limits=[{"type": "requests_per_minute", "value": 1}]
    )
    count = theirs.messages.with_raw_response.count_tokens
    body: Any = {"model": "scripted/answer", "messages": HELLO["messages"]}
    assert count(**body).headers["anthropic-ratelimit-requests-remaining"] == "0"
    with pytest.raises(anthropic.RateLimitError):
        count(**body)


def test_a_session_over_a_rate_waits_and_goes_on(
    metered: Server, api: Anthropic, tenant: tuple[str, Anthropic]
) -> None:
    workspace, theirs = tenant
    api.beta.organization.workspaces.rate_limits.update(
        entry_of(api, "slow-model"),
        workspace_id=workspace,
        limits=[{"type": "requests_per_minute", "value": 30}],
    )
    place = theirs.beta.environments.create(name="p", config={"type": "cloud"})
    agent = theirs.beta.agents.create(name="a", model="slow-model")
    session = theirs.beta.sessions.create(agent=agent.id, environment_id=place.id)
    for _ in range(29):
        theirs.messages.create(model="slow-model", **HELLO)
    for text in ("one", "two", "three"):
        say: Any = {"type": "user.message", "content": [{"type": "text", "text": text}]}
        theirs.beta.sessions.events.send(session.id, events=[say])

        def rested() -> list[Any] | None:
            found = list(theirs.beta.sessions.events.list(session.id))
            return found if found[-1].type == "session.status_idle" else None

        log = until(rested)
    types = [event.type for event in log]
    errors = [event.error for event in log if event.type == "session.error"]
    assert "session.status_rescheduled" in types
    assert {error.type for error in errors} == {"model_rate_limited_error"}
    assert {error.retry_status.type for error in errors} == {"retrying"}
    assert types.count("agent.message") == 3
    assert log[-1].stop_reason.type == "end_turn"


def test_R372_spend_limits_are_set_shown_and_listed(
    api: Anthropic, tenant: tuple[str, Anthropic]
) -> None:
    workspace, _ = tenant
    spend = api.beta.organization.spend_limits
    made = spend.set(amount="100000", scope={"type": "organization"})
    check(made)
    assert made.id.startswith("spl_")
    assert (made.period, made.currency, made.is_enabled) == ("monthly", "USD", True)
    again = spend.set(amount="200000", scope={"type": "organization"}, period="monthly")
    assert (again.id, again.amount) == (made.id, "200000")
    own = spend.set(
        amount="0", scope={"type": "workspace", "workspace_id": workspace}, period="daily"
    )
    none = spend.set(amount=None, scope={"type": "organization"}, period="weekly")
    assert none.amount is None
    assert [x.id for x in spend.list(limit=1)] == [none.id, own.id, made.id]
    assert [x.id for x in spend.list(scope_type=["workspace"])] == [own.id]
    listed = spend.list(scope_type=["organization", "usage_tier"])
    check(listed)
    assert [x.id for x in listed.data] == [none.id, made.id]
    with pytest.raises(anthropic.BadRequestError, match="seat_tier"):
        spend.list(scope_type=["seat_tier"])
    with pytest.raises(anthropic.BadRequestError, match="spend-limit-reads"):
        api.get("/v1/organizations/spend_limits", cast_to=object)
    scope: Any
    for amount, scope in (
        ("-1", {"type": "organization"}),
        ("1.5", {"type": "organization"}),
        ("1", {"type": "user", "user_id": "user_1"}),
        ("1", {"type": "seat_tier", "seat_tier": "x"}),
    ):
        with pytest.raises(anthropic.BadRequestError):
            spend.set(amount=amount, scope=scope)
    for wanted in ("spl_no", "../keys"):
        with pytest.raises(anthropic.NotFoundError):
            spend.retrieve(wanted)
    with pytest.raises(anthropic.BadRequestError) as refused:
        spend.effective.list()
    assert type(refused.value).__name__ == "OrganizationTypeNotSupportedError"


def test_R033_over_a_spend_limit_messages_and_sessions_are_refused(
    metered: Server, api: Anthropic, tenant: tuple[str, Anthropic]
) -> None:
    workspace, theirs = tenant
    spend = api.beta.organization.spend_limits
    theirs.messages.create(model=OPUS, **HELLO)
    limit = spend.set(amount="0", scope={"type": "workspace", "workspace_id": workspace})
    with pytest.raises(
        anthropic.BadRequestError, match="You have reached your specified workspace API usage"
    ) as no:
        theirs.messages.create(model=OPUS, **HELLO)
    assert no.value.response.headers["x-should-retry"] == "false"
    assert "You will regain access on 20" in no.value.message
    api.messages.create(model=OPUS, **HELLO)
    agent = theirs.beta.agents.create(name="a", model=OPUS)
    place = theirs.beta.environments.create(name="p", config={"type": "cloud"})
    session = theirs.beta.sessions.create(agent=agent.id, environment_id=place.id)
    say: Any = {"type": "user.message", "content": [{"type": "text", "text": "go"}]}
    theirs.beta.sessions.events.send(session.id, events=[say])

    def failed() -> Any:
        found = list(theirs.beta.sessions.events.list(session.id))
        return found if found[-1].type == "session.status_idle" else None

    log = until(failed)
    (error,) = [event.error for event in log if event.type == "session.error"]
    assert error.type == "billing_error"
    assert error.retry_status.type == "exhausted"
    refused = rows(metered, "SELECT line FROM audit WHERE kind = 'model.refused'")
    told = [json.loads(line)["fields"] for (line,) in refused]
    assert {one["limit"] for one in told} == {limit.id}
    assert session.id in json.dumps(told)
    spend.delete(limit.id)
    theirs.beta.sessions.events.send(session.id, events=[say])
    until(
        lambda: (
            [e for e in theirs.beta.sessions.events.list(session.id) if e.type == "agent.message"]
            or None
        )
    )


def test_R033_over_the_operators_cap_the_answer_is_429_without_a_time_to_retry(
    fake: FakeMessages, tmp_path: Path
) -> None:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(fake.running()) as base_url,
        running(
            tmp_path / "data", model_base_url=base_url, model_api_key="sk-x", monthly_cap_cents=1
        ) as server,
        Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as api,
    ):
        spend = api.beta.organization.spend_limits
        (cap,) = spend.list().data
        check(cap)
        assert (cap.scope.type, cap.amount) == ("usage_tier", "1")
        assert spend.retrieve(cap.id) == cap
        with pytest.raises(anthropic.BadRequestError, match="operator"):
            spend.delete(cap.id)
        with pytest.raises(anthropic.RateLimitError) as over:
            for _ in range(100):  # each costs at least 7 tokens at 25 dollars a million
                api.messages.create(model=OPUS, **HELLO)
        body: Any = over.value.body
        assert body["error"]["type"] == "rate_limit_error"
        assert body["error"]["details"] == {"error_code": "enforced_spend_limit_reached"}
        assert "retry-after" not in over.value.response.headers
        mine = spend.set(amount="0", scope={"type": "organization"})
        assert [x.id for x in spend.list(limit=1)] == [mine.id, cap.id]


async def test_usage_is_counted_for_whole_streamed_and_broken_off_answers(
    metered: Server, async_api: AsyncAnthropic, fake: FakeMessages
) -> None:
    model = "claude-haiku-4-5"
    counted = (
        "SELECT sum(input), sum(output), sum(output_nanocents) FROM usage_minutes "
        f"WHERE model LIKE '{model}%'"
    )
    await async_api.messages.create(model=model, **HELLO)
    assert rows(metered, counted)[0][:2] == (11, 7)
    async with async_api.messages.stream(model=model, **HELLO) as stream:
        await stream.get_final_message()
    assert rows(metered, counted)[0][:2] == (22, 14)
    fake.faults.append(Fault("cut", at=2))
    with pytest.raises(anthropic.APIError):
        async with async_api.messages.stream(model=model, **HELLO) as stream:
            await stream.get_final_message()
    # What the provider had told when it broke off.
    with anyio.fail_after(60):
        while rows(metered, counted)[0][:2] != (33, 15):  # noqa: ASYNC110  another process writes
            await anyio.sleep(0.02)
    fake.faults.append(Fault("silence", at=2))
    async with async_api.messages.stream(model=model, **HELLO) as stream:
        await anext(aiter(stream))  # and leave
    with anyio.fail_after(60):
        while rows(metered, counted)[0][:2] != (44, 16):  # noqa: ASYNC110  another process writes
            await anyio.sleep(0.02)
    fake.faults.append(Fault("status"))
    with pytest.raises(anthropic.APIStatusError):
        await async_api.messages.create(model=model, **HELLO)
    assert rows(metered, counted)[0][:2] == (44, 16)
    assert rows(metered, counted)[0][2] == 16 * 500_000  # 5 dollars a million: 0.0005 cents


def test_c1_27_R031_calls_are_limited_when_the_operator_says_so(tmp_path: Path) -> None:
    with (
        running(tmp_path / "data", creates_per_minute=300, reads_per_minute=1200) as server,
        Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as api,
        Site(server, api) as site,
    ):
        listed = api.beta.agents.with_raw_response.list()
        assert listed.headers["anthropic-ratelimit-requests-limit"] == "1200"
        made = api.beta.agents.with_raw_response.create(name="a", model="claude-opus-5")
        assert made.headers["anthropic-ratelimit-requests-limit"] == "300"
        agent = made.parse()
        with httpx2.Client(
            base_url=server.base_url,
            headers={
                "x-api-key": server.api_key,
                "anthropic-beta": "managed-agents-2026-04-01",
            },
        ) as http:
            body = {"name": "a", "config": {"type": "cloud"}}
            statuses = [http.post("/v1/environments", json=body).status_code for _ in range(330)]
        assert statuses[:290] == [200] * 290
        assert 429 in statuses
        with pytest.raises(anthropic.RateLimitError, match="create calls per minute") as no:
            while True:
                api.beta.agents.create(name="b", model="claude-opus-5")
        assert int(no.value.response.headers["retry-after"]) >= 1
        # What creates nothing goes on, and so do workers.
        api.beta.agents.update(agent.id, version=agent.version, name="c")
        assert site.worker.beta.environments.work.poll(site.environment_id) is None


async def test_a_crowd_gets_exactly_what_the_limit_allows(
    metered: Server, api: Anthropic, tenant: tuple[str, Anthropic]
) -> None:
    workspace, theirs = tenant
    api.beta.organization.workspaces.rate_limits.update(
        entry_of(api, OPUS),
        workspace_id=workspace,
        limits=[{"type": "requests_per_minute", "value": 5}],
    )
    statuses: list[int] = []

    async def ask(client: AsyncAnthropic) -> None:
        try:
            await client.messages.create(model=OPUS, **HELLO)
            statuses.append(200)
        except anthropic.APIStatusError as error:
            statuses.append(error.status_code)

    async with AsyncAnthropic(
        base_url=metered.base_url, api_key=theirs.api_key, max_retries=0
    ) as client:
        began_s = anyio.current_time()
        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(ask, client)
        took_s = anyio.current_time() - began_s
    assert len(statuses) == 60
    # One more flows in every twelve seconds.
    assert 5 <= statuses.count(200) <= 6 + took_s // 12
    assert set(statuses) == {200, 429}
