"""Telemetry destinations through the official SDK, and what arrives at a real collector."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.engines import opened
from tests.fakes.collector import Collector, attributes, running_collector
from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.site import Site, until
from tests.wire.structure import check

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

BETA = "telemetry-destinations-2026-08-11"
ALL: Any = {"type": "all"}
SECRET = "Bearer-of-the-collector-8d1f"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as started:
        yield started


@pytest.fixture(scope="module")
def server(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("telemetry")
    (folder / "ca.pem").write_text(collector.ca_pem)
    with running(
        folder / "data",
        model_scripts=str(SCRIPTS),
        trace_networks=["127.0.0.0/8", "::1/128"],
        trace_ca_file=str(folder / "ca.pem"),
    ) as started:
        yield started


@pytest.fixture
def api(server: Server, collector: Collector) -> Iterator[Anthropic]:
    collector.got.clear()
    collector.status, collector.location, collector.pause_s = 200, None, 0.0
    collector.body = b""
    with Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as made:
        yield made
        for one in made.beta.organization.telemetry_destinations.list():
            made.beta.organization.telemetry_destinations.delete(one.id)


@pytest.fixture
async def async_api(api: Anthropic, server: Server) -> AsyncIterator[AsyncAnthropic]:
    made = AsyncAnthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0)
    async with made:
        yield made


def made_by(api: Anthropic, collector: Collector, **more: Any) -> Any:
    body = {"endpoint_url": collector.url, "workspaces": ALL, **more}
    return api.beta.organization.telemetry_destinations.create(**body)


def test_a_destination_is_made_read_changed_and_deleted(
    api: Anthropic, collector: Collector
) -> None:
    org = api.beta.organization.telemetry_destinations
    made = made_by(api, collector, display_name="Ours", headers={"Authorization": SECRET})
    check(made)
    assert made.id.startswith("tdst_")
    assert (made.state.type, made.header_names) == ("enabled", ["Authorization"])
    assert made.traces.to_dict() == {
        "content_mode": "metadata_only",
        "enabled": True,
        "endpoint_url": None,
        "max_content_bytes": None,
    }
    assert org.retrieve(made.id) == made
    changed = org.update(made.id, display_name=None, traces={"max_content_bytes": 100})
    check(changed)
    assert (changed.display_name, changed.traces.max_content_bytes) == (None, 100)
    assert changed.header_names == ["Authorization"]
    assert changed.updated_at > made.updated_at
    disabled = org.update(made.id, state={"type": "disabled"})
    check(disabled)
    assert disabled.state.to_dict() == {"type": "disabled", "reason": {"type": "caller"}}
    again = org.update(made.id, state={"type": "disabled"})
    assert again.updated_at == disabled.updated_at
    reset = org.update(made.id, traces=None, state={"type": "enabled"})
    assert reset.traces.max_content_bytes is None
    gone = org.delete(made.id)
    check(gone)
    with pytest.raises(anthropic.NotFoundError):
        org.retrieve(made.id)


async def test_the_same_through_the_async_client(
    async_api: AsyncAnthropic, collector: Collector
) -> None:
    org = async_api.beta.organization.telemetry_destinations
    workspace = (await async_api.beta.organization.workspaces.create(name="async")).id
    raw = await org.with_raw_response.create(
        endpoint_url=collector.url, workspaces={"type": "include"}
    )
    made = await raw.parse()
    added = await org.workspaces.add(workspace, destination_id=made.id)
    check(added)
    assert [x async for x in org.workspaces.list(made.id)] == [added]
    assert [d.id async for d in org.list(workspace_ids=[workspace])] == [made.id]
    changed = await org.update(made.id, display_name="x")
    assert (await org.retrieve(made.id)).to_dict() == changed.to_dict()
    result = await org.test(made.id)
    check(result)
    check(await org.workspaces.remove(workspace, destination_id=made.id))
    async with org.with_streaming_response.delete(made.id) as streamed:
        assert (await streamed.json())["type"] == "telemetry_destination_deleted"


def test_R378_at_most_ten_count_the_disabled_ones(api: Anthropic, collector: Collector) -> None:
    org = api.beta.organization.telemetry_destinations
    ids = [made_by(api, collector, traces={"enabled": False}).id for _ in range(10)]
    org.update(ids[0], state={"type": "disabled"})
    with pytest.raises(anthropic.BadRequestError, match="at most 10"):
        made_by(api, collector)
    assert [d.id for d in org.list(limit=3)] == ids[::-1]
    check(org.list())
    org.delete(ids[0])
    made_by(api, collector)


def test_R379_what_is_no_address_of_a_collector_is_refused(
    api: Anthropic, collector: Collector
) -> None:
    bad: Any
    for bad in (
        "http://localhost",
        "https://127.0.0.1",
        "https://[::1]/",
        "https://localhost/?x=1",
        "https://localhost/#x",
        "https://u:p@localhost/",
        "https://",
        "localhost",
        "https://local host/",
        "https://localhost/" + "x" * 2100,
    ):
        with pytest.raises(anthropic.BadRequestError, match="endpoint_url"):
            made_by(api, collector, endpoint_url=bad)
        with pytest.raises(anthropic.BadRequestError, match="endpoint_url"):
            made_by(api, collector, traces={"endpoint_url": bad})
    with pytest.raises(anthropic.BadRequestError, match="host and port"):
        made_by(api, collector, traces={"endpoint_url": "https://other.test/v1"})
    with pytest.raises(anthropic.BadRequestError, match="65536"):
        made_by(api, collector, traces={"max_content_bytes": 65537})
    with pytest.raises(anthropic.BadRequestError, match=BETA):
        api.get("/v1/organizations/telemetry_destinations", cast_to=object)


def test_R379_the_path_is_appended_and_content_left_out(
    api: Anthropic, collector: Collector
) -> None:
    org = api.beta.organization.telemetry_destinations
    plain = made_by(api, collector, endpoint_url=f"{collector.url}/otlp/")
    own = made_by(api, collector, traces={"endpoint_url": f"{collector.url}/own/path"})
    assert plain.traces.content_mode == "metadata_only"
    org.test(plain.id)
    org.test(own.id)
    assert [one.path for one in collector.got] == ["/otlp/v1/traces", "/own/path"]
    (span,) = collector.got[0].spans
    assert span.name == "anthropic.test"
    assert collector.got[0].headers["content-type"] == "application/x-protobuf"


def test_R380_header_values_are_sent_and_never_shown(
    api: Anthropic, collector: Collector, server: Server
) -> None:
    org = api.beta.organization.telemetry_destinations
    made = made_by(api, collector, headers={"Authorization": SECRET, "X-Team": "blue"})
    raw = org.with_raw_response.retrieve(made.id)
    assert SECRET not in raw.text()
    org.test(made.id)
    assert collector.got[0].headers["authorization"] == SECRET
    with pytest.raises(anthropic.BadRequestError, match="endpoint_url together"):
        org.update(made.id, headers={"x-team": "green"})
    changed = org.update(
        made.id, headers={"x-team": "green", "AUTHORIZATION": None}, endpoint_url=collector.url
    )
    assert changed.header_names == ["x-team"]
    kept = org.update(made.id, endpoint_url=f"{collector.url}/other/path")
    assert kept.header_names == ["x-team"]
    moved = org.update(made.id, endpoint_url="https://elsewhere.test/other/path")
    assert moved.header_names == []
    headers: Any
    for headers in (
        {f"x-{n}": "v" for n in range(21)},
        {"Host": "x"},
        {"content_type": "x"},
        {"X-Forwarded-For": "x"},
        {"anthropic-beta": "x"},
        {"x": "a\r\ny: b"},
        {"x\r\ny": "a"},
        {"x y": "a"},
        {"x": " a"},
        {"x": "ä"},
        {"x": ""},
        {"x": "a" * 4097},
        {"X-a": "1", "x-A": "2"},
        {f"x-{n}": "a" * 4096 for n in range(4)},
    ):
        with pytest.raises(anthropic.BadRequestError, match="headers"):
            made_by(api, collector, headers=headers)
    on_disk = b"".join(p.read_bytes() for p in server.data_dir.glob("intramuros.db*"))
    assert SECRET.encode() not in on_disk
    assert SECRET not in server.log


def test_R381_a_test_answers_200_when_the_collector_fails_and_changes_nothing(
    api: Anthropic, collector: Collector
) -> None:
    org = api.beta.organization.telemetry_destinations
    cases = [
        (503, "HTTP error (status 503)"),
        (401, "HTTP error (status 401)"),
        (302, "redirect (status 302)"),
    ]
    collector.location = f"{collector.url}/elsewhere"
    for status, says in cases:
        collector.status = status
        made = made_by(api, collector)
        result = org.test(made.id)
        check(result)
        assert result.result.to_dict() == {"type": "failure", "error": says}
        assert org.retrieve(made.id) == made
        with pytest.raises(anthropic.RateLimitError) as soon:
            org.test(made.id)
        assert int(soon.value.response.headers["retry-after"]) <= 10
    assert len(collector.got) == len(cases)  # the redirect was not followed
    collector.status, collector.body = 200, b"x" * 5_000_000
    big = made_by(api, collector)
    assert org.test(big.id).result.type == "success"
    for url, says in (
        ("https://no-such-host.invalid", "invalid address"),
        (f"https://localhost:{1}", "connection failure"),
    ):
        made = made_by(api, collector, endpoint_url=url)
        found: Any = org.test(made.id).result
        # Resolvers without a network say that they cannot tell.
        assert found.error in (says, "temporary DNS failure")


def test_R381_an_update_that_another_one_overtook_is_a_conflict(
    api: Anthropic, collector: Collector, server: Server
) -> None:
    made = made_by(api, collector)
    path = f"/v1/organizations/telemetry_destinations/{made.id}"
    body = json.dumps({"display_name": "slow"}).encode()

    def slowly() -> Iterator[bytes]:
        yield body[:5]
        api.beta.organization.telemetry_destinations.update(made.id, display_name="fast")
        yield body[5:]

    headers = {
        "x-api-key": server.api_key,
        "anthropic-beta": BETA,
        "content-type": "application/json",
        "content-length": str(len(body)),
    }

    def overtaken() -> httpx2.Response | None:
        # The request must have been met before the other one changes the destination.
        answer = httpx2.post(server.base_url + path, headers=headers, content=slowly())
        return answer if answer.status_code == 409 else None

    answer = until(overtaken)
    assert answer.json()["error"]["type"] == "conflict_error"
    found = api.beta.organization.telemetry_destinations.retrieve(made.id)
    assert found.display_name == "fast"


def test_lists_of_workspaces_follow_their_rules(api: Anthropic, collector: Collector) -> None:
    org = api.beta.organization
    one, two, three = (org.workspaces.create(name=f"w{n}").id for n in range(3))
    listed = org.telemetry_destinations.workspaces
    only = made_by(api, collector, workspaces={"type": "include", "workspace_ids": [one, one]})
    but = made_by(api, collector, workspaces={"type": "exclude", "workspace_ids": [two]})
    all_of_them = made_by(api, collector)

    def covering(*ids: str) -> set[str]:
        return {d.id for d in org.telemetry_destinations.list(workspace_ids=list(ids))}

    assert covering(one) == {only.id, but.id, all_of_them.id}
    assert covering(two) == {all_of_them.id}
    assert covering("wrkspc_no") == set()
    first = listed.add(two, destination_id=only.id)
    assert listed.add(two, destination_id=only.id) == first
    assert [x.workspace_id for x in listed.list(only.id, limit=1)] == [two, one]
    check(listed.remove(one, destination_id=only.id))
    with pytest.raises(anthropic.NotFoundError):
        listed.remove(one, destination_id=only.id)
    with pytest.raises(anthropic.NotFoundError):
        listed.add("wrkspc_no", destination_id=only.id)
    for call in (listed.add, listed.remove):
        with pytest.raises(anthropic.BadRequestError, match="no list"):
            call(one, destination_id=all_of_them.id)
    assert listed.list(all_of_them.id).data == []
    org.workspaces.archive(three)
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        listed.add(three, destination_id=only.id)
    org.workspaces.archive(two)
    kept = org.telemetry_destinations.update(
        only.id, workspaces={"type": "include", "workspace_ids": [two, one]}
    )
    assert kept.updated_at > only.updated_at
    entries = {x.workspace_id: x.created_at for x in listed.list(only.id)}
    assert entries[two] == first.created_at
    turned = org.telemetry_destinations.update(only.id, workspaces={"type": "exclude"})
    assert turned.workspaces.type == "exclude"
    assert listed.list(only.id).data == []
    wrong: Any
    for wrong in (
        {"type": "all", "workspace_ids": [one]},
        {"type": "include", "workspace_ids": ["x"]},
    ):
        with pytest.raises(anthropic.BadRequestError):
            made_by(api, collector, workspaces=wrong)


def spans_of(collector: Collector, name: str, count: int = 1) -> list[Any]:
    def enough() -> list[Any] | None:
        found = [span for span in collector.spans if span.name.startswith(name)]
        return found if len(found) >= count else None

    return until(enough)


def test_a_session_arrives_as_a_trace_without_its_content(
    api: Anthropic, server: Server, collector: Collector
) -> None:
    made = made_by(api, collector, headers={"x-team": "blue"})
    with Site(server, api) as site:
        session = site.session("answer")
        say: Any = {"type": "user.message", "content": [{"type": "text", "text": "open sesame"}]}
        api.beta.sessions.events.send(session.id, events=[say])
        site.wait(session.id, "session.status_idle")
    (turn,) = spans_of(collector, "invoke_agent")
    (chat,) = spans_of(collector, "chat scripted/answer")
    assert chat.trace_id == turn.trace_id
    assert chat.parent_span_id == turn.span_id
    assert turn.parent_span_id == b""
    assert turn.start_time_unix_nano <= chat.start_time_unix_nano <= chat.end_time_unix_nano
    told = attributes(chat)
    assert told["gen_ai.conversation.id"] == session.id
    assert told["gen_ai.response.finish_reasons"] == ["end_turn"]
    assert told["gen_ai.usage.output_tokens"] == 0
    assert not {name for name in told if "message" in name}
    assert all(one.headers["x-team"] == "blue" for one in collector.got)
    assert b"sesame" not in b"".join(one.body for one in collector.got)

    def healthy() -> Any:
        found = api.beta.organization.telemetry_destinations.retrieve(made.id)
        return found if found.delivery_health.last_success_at else None

    found = until(healthy)
    assert found.updated_at == made.updated_at
    assert found.delivery_health.last_error is None


def test_content_goes_to_whom_it_was_granted_and_is_cut(
    api: Anthropic, server: Server, collector: Collector
) -> None:
    plain = made_by(api, collector, endpoint_url=f"{collector.url}/plain")
    traces: Any = {"content_mode": "content", "max_content_bytes": 40}
    made_by(api, collector, endpoint_url=f"{collector.url}/full", traces=traces)
    with Site(server, api) as site:
        session = site.session("answer")
        say: Any = {"type": "user.message", "content": [{"type": "text", "text": "sesame" * 50}]}
        api.beta.sessions.events.send(session.id, events=[say])
        site.wait(session.id, "session.status_idle")
    spans_of(collector, "chat", 2)
    sent = {
        one.path: [attributes(s) for s in one.spans if s.name.startswith("chat")]
        for one in collector.got
        if any(s.name.startswith("chat") for s in one.spans)
    }
    (full,) = sent["/full/v1/traces"]
    content = [str(v) for k, v in full.items() if k.endswith(".messages")]
    assert content
    assert sum(len(text.encode()) for text in content) <= 40
    (other,) = sent["/plain/v1/traces"]
    assert not [k for k in other if k.endswith(".messages")]
    assert plain.traces.content_mode == "metadata_only"


def test_a_redirect_disables_at_once_and_nothing_comes_later(
    api: Anthropic, server: Server, collector: Collector
) -> None:
    org = api.beta.organization.telemetry_destinations
    collector.status, collector.location = 301, f"{collector.url}/elsewhere"
    made = made_by(api, collector)
    body: Any = {"model": "scripted/answer", "messages": [{"role": "user", "content": "hi"}]}
    api.messages.create(max_tokens=5, **body)

    def disabled() -> Any:
        found = org.retrieve(made.id)
        return found if found.state.type == "disabled" else None

    found = until(disabled)
    check(found)
    assert found.state.reason.type == "redirect"
    assert found.delivery_health.last_error == "redirect (status 301)"
    assert {one.path for one in collector.got} == {"/v1/traces"}
    api.messages.create(max_tokens=5, **body)
    collector.status, collector.location = 200, None
    collector.got.clear()
    org.update(made.id, state={"type": "enabled"})
    api.messages.create(max_tokens=5, **body)
    chats = spans_of(collector, "chat scripted/answer")
    assert len(chats) == 1
    with opened(server.data_dir) as db:
        kinds = {kind for (kind,) in db.execute("SELECT kind FROM audit WHERE kind LIKE 'telem%'")}
    assert {
        "telemetry_destination.create",
        "telemetry_destination.update",
        "telemetry_destination.deliver",
        "telemetry_destination.disable",
    } <= kinds
