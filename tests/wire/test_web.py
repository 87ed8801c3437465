"""Web tools through the official SDK: real pages, a search engine's API, everything on loopback."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic import AsyncAnthropic

from tests.engines import opened
from tests.fakes.website import Origin, moved, page, serving, silent
from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.site import MESSAGE, Site, until
from tests.wire.structure import check

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
KEY = "tvly-hush-hush"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Server]:
    """A server whose operator has switched the web on; loopback counts as his own network."""
    home = tmp_path_factory.mktemp("web")
    (home / "key").write_text(KEY)
    with running(
        home / "data",
        model_scripts=str(SCRIPTS),
        web_tools=["web_fetch", "web_search"],
        web_networks=["127.0.0.0/8"],
        web_ports=[80, 443, origin.port],
        web_blocked_domains=["forbidden.example"],
        web_timeout_s=5.0,
        search_engine="tavily",
        search_url=origin.url,
        search_key_file=str(home / "key"),
    ) as started:
        yield started


@pytest.fixture(autouse=True)
def forgotten(origin: Origin) -> None:
    origin.pages.clear()
    origin.asked.clear()


def surf(
    site: Site,
    script: str,
    *,
    say: str | None = None,
    environment: str = "self_hosted",
    policy: str = "always_allow",
    **configs: Any,
) -> str:
    """Start a session with an agent that has web settings, and say something to it."""
    tools: Any = [
        {
            "type": "agent_toolset_20260401",
            "default_config": {"permission_policy": {"type": policy}},
            "configs": [{"name": name, **config} for name, config in configs.items()],
        }
    ]
    made = site.api.beta.agents.create(name="A", model=f"scripted/{script}", tools=tools)
    place = site.environment_id if environment == "self_hosted" else cut_off(site)
    session = site.api.beta.sessions.create(agent=made.id, environment_id=place)
    message: Any = {"type": "user.message", "content": [{"type": "text", "text": say}]}
    site.api.beta.sessions.events.send(session.id, events=[message if say else MESSAGE])
    return session.id


def cut_off(site: Site) -> str:
    """A cloud environment whose network policy lets nothing out."""
    config: Any = {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": []}}
    return site.api.beta.environments.create(name="cut off", config=config).id


def ended(site: Site, session: str) -> list[Any]:
    events = site.wait(session, "session.status_idle")
    for event in events:
        check(event, nullable=False)
    return events


def of(events: list[Any], type: str) -> list[Any]:
    return [event for event in events if event.type == type]


def said(events: list[Any]) -> str:
    return str(of(events, "agent.message")[-1].content[0].text)


def records(server: Server, session: str) -> list[tuple[str, dict[str, Any]]]:
    with opened(server.data_dir) as db:
        rows = db.execute(
            "SELECT kind, line FROM audit WHERE session_id = ? AND kind LIKE 'web.%' ORDER BY seq",
            (session,),
        )
        return [(kind, json.loads(line)["fields"]) for kind, line in rows]


def found(origin: Origin, *paths: str) -> Any:
    results = [
        {"url": f"{origin.url}{p}" if p.startswith("/") else p, "title": "T", "content": "c"}
        for p in paths
    ]
    return page(json.dumps({"results": results}), "application/json")


@pytest.mark.parametrize("environment", ["self_hosted", "cloud"])
def test_c6_24_R388_the_server_searches_and_reads_wherever_the_sandbox_is(
    site: Site, origin: Origin, environment: str
) -> None:
    """No worker runs: nobody but the server can have done it, and no network policy stopped it."""
    origin.pages["/search"] = found(origin, "/page?q=1")
    origin.pages["/page"] = page("<title>Wisdom</title><p>The answer is 42.")
    session = surf(site, "surfer", environment=environment)
    events = ended(site, session)
    assert said(events) == "The page says 42."
    assert of(events, "session.status_idle")[-1].stop_reason.type == "end_turn"
    search, read = of(events, "agent.tool_use")
    assert (search.name, read.name) == ("web_search", "web_fetch")
    assert search.evaluation.type == "always_allow"
    hits, document = of(events, "agent.tool_result")
    assert (hits.tool_use_id, hits.is_error) == (search.id, False)
    assert hits.content[0].type == "search_result"
    assert hits.content[0].source == f"{origin.url}/page?q=1"
    assert document.content[0].type == "document"
    assert document.content[0].title == "Wisdom"
    assert document.content[0].source.data == "The answer is 42."
    assert of(events, "user.tool_result") == []
    usage = of(events, "session.usage")[-1].usage
    assert usage.server_tool_use.web_search_requests == 1
    assert usage.server_tool_use.web_fetch_requests == 0
    assert usage.list_cost.amount == "1", "a search costs a cent"


def test_each_call_is_recorded_before_it_is_made_without_its_query(
    site: Site, origin: Origin
) -> None:
    origin.pages["/search"] = found(origin, "/page?token=hush")
    origin.pages["/page"] = moved("/moved?more=hush")
    origin.pages["/moved"] = page("The answer is 7.", "text/plain")
    session = surf(site, "surfer")
    assert said(ended(site, session)) == "The page says 7."
    kept = records(site.server, session)
    assert [kind for kind, _ in kept] == [
        "web.call",
        "web.result",
        "web.call",
        "web.redirect",
        "web.result",
    ]
    _, _, (_, call), (_, hop), (_, result) = kept
    assert (call["host"], call["path"], call["tool"]) == ("127.0.0.1", "/page", "web_fetch")
    assert (hop["path"], hop["call"]) == ("/moved", call["call"])
    assert (result["status"], result["is_error"]) == (200, False)
    assert "hush" not in json.dumps(kept)
    assert "hush" not in site.server.log
    assert KEY not in site.server.log
    assert origin.asked[0].headers["authorization"] == f"Bearer {KEY}"


def test_c6_21_a_domain_outside_the_lists_is_an_error_result(site: Site, origin: Origin) -> None:
    origin.pages["/page"] = page("never", "text/plain")
    url = f"http://sub.example.com:{origin.port}/page"
    for lists in ({"allowed_domains": ["example.org"]}, {"blocked_domains": ["example.com"]}):
        events = ended(site, surf(site, "pagereader", say=f"Read {url} now", web_fetch=lists))
        result, *_ = of(events, "agent.tool_result")
        assert result.is_error is True
        assert "url_not_allowed" in result.content[0].text
    assert origin.asked == []


def test_the_operators_list_wins_over_the_agents(site: Site, origin: Origin) -> None:
    url = f"http://www.forbidden.example:{origin.port}/page"
    allow = {"allowed_domains": ["forbidden.example"]}
    events = ended(site, surf(site, "pagereader", say=url, web_fetch=allow))
    result, *_ = of(events, "agent.tool_result")
    assert result.content[0].text.startswith("url_not_allowed: ")


def test_c6_21_search_drops_hits_outside_the_lists(site: Site, origin: Origin) -> None:
    origin.pages["/search"] = found(
        origin,
        "https://a.com/1",
        "https://x.a.com/2",
        "https://b.com/",
        "https://forbidden.example/",
    )
    for lists, kept in (
        ({"allowed_domains": ["a.com"]}, ["https://a.com/1", "https://x.a.com/2"]),
        ({"blocked_domains": ["x.a.com"]}, ["https://a.com/1", "https://b.com/"]),
    ):
        session = surf(site, "surfer", web_search=lists)
        hits = of(ended(site, session), "agent.tool_result")[0]
        assert hits.is_error is False
        assert [hit.source for hit in hits.content] == kept
    assert origin.asked[0].json()["include_domains"] == ["a.com"]


def test_c6_22_fetched_text_is_cut(site: Site, origin: Origin) -> None:
    origin.pages["/page"] = page("word " * 1000, "text/plain")
    limit = {"max_content_tokens": 10}
    events = ended(site, surf(site, "pagereader", say=f"{origin.url}/page", web_fetch=limit))
    result, *_ = of(events, "agent.tool_result")
    assert result.content[0].source.data.startswith("word " * 8 + "\n[cut: 4960 of 5000")


def test_c6_23_an_address_that_the_model_made_up_is_not_read(site: Site, origin: Origin) -> None:
    origin.pages["/page"] = page("leaked", "text/plain")
    events = ended(site, surf(site, "leaker", say=f"Go to {origin.url}/page please"))
    result, *_ = of(events, "agent.tool_result")
    assert result.is_error is True
    assert "url_not_in_prior_context" in result.content[0].text
    assert origin.asked == []


@pytest.mark.parametrize("sources", [{"user_input": "none"}, {"user_input": {"type": "none"}}])
def test_c6_23_users_may_be_left_out(site: Site, origin: Origin, sources: Any) -> None:
    session = surf(site, "pagereader", say=f"{origin.url}/page", web_fetch={"url_sources": sources})
    result, *_ = of(ended(site, session), "agent.tool_result")
    assert "url_not_in_prior_context" in result.content[0].text


def test_private_addresses_are_out_of_reach(site: Site) -> None:
    for host in ("10.0.0.1", "169.254.169.254", "[::1]", "localhost.localdomain"):
        events = ended(site, surf(site, "pagereader", say=f"http://{host}/ please"))
        result, *_ = of(events, "agent.tool_result")
        assert result.is_error is True, host


async def test_c6_24_a_call_that_was_asked_about_runs_once_it_is_allowed(
    site: Site, origin: Origin, async_client: AsyncAnthropic
) -> None:
    origin.pages["/page"] = page("fine", "text/plain")
    session = surf(site, "pagereader", say=f"{origin.url}/page", policy="always_ask")
    events = ended(site, session)
    [use] = of(events, "agent.tool_use")
    assert use.evaluated_permission == "ask"
    assert of(events, "session.status_idle")[-1].stop_reason.event_ids == [use.id]
    assert origin.asked == []
    answer: Any = {"type": "user.tool_confirmation", "tool_use_id": use.id, "result": "allow"}
    await async_client.beta.sessions.events.send(session, events=[answer])
    events = site.wait(session, "session.status_idle", 2)
    assert said(events) == "It says fine"


def test_an_interrupt_hangs_up_a_page_that_does_not_come(site: Site, origin: Origin) -> None:
    origin.pages["/page"] = silent
    left = origin.left
    session = surf(site, "pagereader", say=f"{origin.url}/page")
    until(lambda: origin.asked or None)
    stop: Any = {"type": "user.interrupt"}
    site.api.beta.sessions.events.send(session, events=[stop])
    events = ended(site, session)
    result, *_ = of(events, "agent.tool_result")
    assert result.is_error is True
    assert "interrupted" in result.content[0].text
    until(lambda: origin.left > left or None)
