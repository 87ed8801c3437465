"""Web calls that the operator has made by workers: real pages, both workers, everything local."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anyio import to_thread

from intramuros.kernel.appendlog import read_lines
from tests.fakes.website import Origin, moved, page, serving, silent
from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.site import Site, until
from tests.wire.structure import check
from tests.wire.test_web import found, of, records, said, surf
from tests.wire.workers import official, ours

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
KEY = "tvly-hush-hush"
MISSING = "none that makes them serves this session's environment"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that makes no web calls itself, and is told of no engine, key or network."""
    with running(
        tmp_path_factory.mktemp("inside") / "data",
        model_scripts=str(SCRIPTS),
        web_place="worker",
        web_tools=["web_fetch", "web_search"],
        web_blocked_domains=["forbidden.test"],
        web_timeout_s=5.0,
    ) as started:
        yield started


@pytest.fixture(autouse=True)
def forgotten(origin: Origin) -> None:
    origin.pages.clear()
    origin.asked.clear()


async def this_machine(name: str, _port: int) -> Sequence[str]:
    """Every name is a host of this machine's network."""
    return ["127.0.0.1"] if name.endswith(".test") or name == "127.0.0.1" else []


def inside(folder: Path, origin: Origin, **more: Any) -> dict[str, Any]:
    """The settings of a worker that reads the intranet and asks a search engine in it."""
    key = folder / "engine-key"
    key.write_text(KEY)
    return {
        "resolver": this_machine,
        "web_tools": ("web_fetch", "web_search"),
        "web_allow": ("intranet.test", "rebound.test", "forbidden.test"),
        "egress_internal": ("intranet.test", "forbidden.test"),
        "egress_ports": (origin.port,),
        "search_engine": "tavily",
        "search_url": origin.url,
        "search_key_file": key,
        **more,
    }


async def log_of(site: Site, session: str, count: int = 1) -> list[Any]:
    events = await to_thread.run_sync(site.wait, session, "session.status_idle", count)
    for event in events:
        check(event, nullable=False)
    return list(events)


def told(events: list[Any]) -> str:
    """The last result of a web call, as text."""
    result = of(events, "agent.tool_result")[-1]
    return str(getattr(result.content[0], "text", result.content[0]))


def kept(state: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_lines(state / "audit.jsonl")]


async def test_a_worker_searches_and_reads_where_only_it_can(
    site: Site, origin: Origin, tmp_path: Path
) -> None:
    url = f"http://intranet.test:{origin.port}/page"
    origin.pages["/search"] = found(origin, url)
    origin.pages["/page"] = moved("/moved?token=hush")
    origin.pages["/moved"] = page(f"<p>The answer is 42. {site.key}", "text/html")
    async with ours(site, tmp_path, **inside(tmp_path, origin)) as state:
        session = await to_thread.run_sync(surf, site, "surfer")
        events = await log_of(site, session)
    assert said(events) == "The page says 42."
    hits, document = of(events, "agent.tool_result")
    assert hits.content[0].source == url
    assert document.content[0].type == "document"
    assert site.key not in str(document.content), "the worker's own key does not leave"
    assert of(events, "session.status_idle")[-1].stop_reason.type == "end_turn"
    assert of(events, "user.tool_result") == []
    usage = of(events, "session.usage")[-1].usage
    assert usage.server_tool_use.web_search_requests == 1
    # The server knows who made the call, and neither the query nor the key.
    shown = records(site.server, session)
    assert [kind for kind, _ in shown] == [
        "web.call",
        "web.hand_over",
        "web.result",
    ] * 2
    assert shown[-1][1]["hosts"] == ["intranet.test", "intranet.test"]
    assert KEY not in site.server.log + json.dumps(shown)
    assert origin.asked[0].headers["authorization"] == f"Bearer {KEY}"
    # The worker's record: each hop before it was dialled, and what left.
    lines = [line for line in kept(state) if line.get("kind", "").startswith(("web.", "egress."))]
    asked = [line for line in lines if line["kind"] == "egress.request"]
    assert [line["fields"]["rule"] for line in asked] == [
        "search_engine",
        "unrestricted",
        "unrestricted",
    ]
    assert [line["fields"]["path"] for line in asked] == ["/search", "/page", "/moved"]
    results = [line["fields"] for line in lines if line["kind"] == "web.result"]
    assert [line["direction"] for line in results] == ["out", "out"]
    assert results[1]["masked"] == 1
    assert "hush" not in json.dumps(lines)


async def test_without_such_a_worker_the_model_is_told_at_once(
    site: Site, origin: Origin, tmp_path: Path
) -> None:
    url = f"http://intranet.test:{origin.port}/page"
    session = await to_thread.run_sync(lambda: surf(site, "pagereader", say=url))
    assert MISSING in told(await log_of(site, session))
    # The official worker serves the session, knows no such calls and is given none.
    async with official(site, tmp_path):
        session = await to_thread.run_sync(lambda: surf(site, "pagereader", say=url))
        assert MISSING in told(await log_of(site, session))
    # Neither does one of ours that was not told to.
    async with ours(site, tmp_path):
        session = await to_thread.run_sync(lambda: surf(site, "pagereader", say=url))
        assert MISSING in told(await log_of(site, session))
    assert origin.asked == []


async def test_beside_the_official_worker_ours_makes_the_calls(
    site: Site, origin: Origin, tmp_path: Path
) -> None:
    """Who holds the session's work item does not matter."""
    origin.pages["/page"] = page("fine", "text/plain")
    url = f"http://intranet.test:{origin.port}/page"
    async with (
        official(site, tmp_path),
        ours(site, tmp_path, **inside(tmp_path, origin)),
    ):
        session = await to_thread.run_sync(lambda: surf(site, "pagereader", say=url))
        assert said(await log_of(site, session)) == "It says fine"


async def test_both_operators_and_the_agent_bind_every_hop(
    site: Site, origin: Origin, tmp_path: Path
) -> None:
    here = f"http://intranet.test:{origin.port}"
    for name in ("elsewhere", "rebound", "forbidden"):
        origin.pages[f"/{name}"] = moved(f"http://{name}.test:{origin.port}/secret")
    origin.pages["/metadata"] = moved("http://169.254.169.254/latest")
    origin.pages["/secret"] = page("secret", "text/plain")
    async with ours(site, tmp_path, **inside(tmp_path, origin)) as state:
        for path, why in {
            "/elsewhere": "the worker's rules do not allow it (worker_does_not_allow)",
            "/rebound": "does not resolve to public addresses only",
            "/forbidden": "pages of this domain may not be fetched",
            "/metadata": "pages are named by domain, not by address",
        }.items():
            session = await to_thread.run_sync(
                lambda path=path: surf(site, "pagereader", say=f"{here}{path}")
            )
            said = told(await log_of(site, session))
            assert said.startswith("url_not_allowed: ")
            assert why in said
        lists = {"allowed_domains": ["other.example"]}
        session = await to_thread.run_sync(
            lambda: surf(site, "pagereader", say=here, web_fetch=lists)
        )
        assert "url_not_allowed" in told(await log_of(site, session))
    assert "/secret" not in origin.paths()
    refused = [
        (line["fields"]["host"], line["fields"]["rule"])
        for line in kept(state)
        if line["kind"] == "egress.request" and line["fields"]["verdict"] == "deny"
    ]
    assert set(refused) == {("elsewhere.test", "worker_does_not_allow")}


async def test_an_interrupt_hangs_up_inside_too(site: Site, origin: Origin, tmp_path: Path) -> None:
    origin.pages["/page"] = silent
    left = origin.left
    async with ours(site, tmp_path, **inside(tmp_path, origin)) as state:
        url = f"http://intranet.test:{origin.port}/page"
        session = await to_thread.run_sync(lambda: surf(site, "pagereader", say=url))
        await to_thread.run_sync(until, lambda: origin.asked or None)
        stop: Any = {"type": "user.interrupt"}
        site.api.beta.sessions.events.send(session, events=[stop])
        assert "interrupted" in told(await log_of(site, session))
        await to_thread.run_sync(until, lambda: origin.left > left or None)
    assert "web.abandoned" in {line["kind"] for line in kept(state)}
    assert "web.result" not in {line["kind"] for line in kept(state)}


async def test_sessions_of_the_pool_are_served_by_its_workers(
    site: Site, origin: Origin, tmp_path: Path
) -> None:
    origin.pages["/page"] = page("fine", "text/plain")
    url = f"http://intranet.test:{origin.port}/page"
    made = site.http.post("/x/pool/keys", json={"name": "pool"})
    pool_key = made.json()["key"]
    async with ours(site, tmp_path, pool_key, **inside(tmp_path, origin)):
        session = await to_thread.run_sync(
            lambda: surf(site, "pagereader", say=url, environment="cloud")
        )
        assert said(await log_of(site, session)) == "It says fine"
        # Those of self-hosted environments are not its business.
        session = await to_thread.run_sync(lambda: surf(site, "pagereader", say=url))
        assert MISSING in told(await log_of(site, session))


async def test_what_a_child_asks_for_comes_back_to_the_child(
    site: Site, origin: Origin, tmp_path: Path
) -> None:
    origin.pages["/page"] = page("fine", "text/plain")
    url = f"http://intranet.test:{origin.port}/page"
    make = site.api.beta.agents.create
    tools: Any = [{"type": "agent_toolset_20260401"}]
    reader = make(name="Reader", model="scripted/pagereader", tools=tools).id
    lead = make(
        name="Lead",
        model="scripted/dispatcher",
        multiagent={"type": "coordinator", "agents": [reader]},
    )
    session = site.api.beta.sessions.create(agent=lead.id, environment_id=site.environment_id).id
    said: Any = {"type": "user.message", "content": [{"type": "text", "text": url}]}

    def reported() -> Any:
        [thread] = [
            t
            for t in site.api.beta.sessions.threads.list(session)
            if t.parent_thread_id is not None
        ] or [None]
        if thread is None:
            return None
        events = list(site.api.beta.sessions.threads.events.list(thread.id, session_id=session))
        return events if of(events, "agent.message") else None

    async with ours(site, tmp_path, **inside(tmp_path, origin)):
        site.api.beta.sessions.events.send(session, events=[said])
        events = await to_thread.run_sync(until, reported)
    assert "fine" in told(events)
    assert of(events, "agent.message")[-1].content[0].text == "It says fine"
    assert of(site.events(session), "agent.tool_result") == [], "it is the child's"


class Door(AbstractContextManager["Door"]):
    """What a worker sends, by hand."""

    def __init__(self, site: Site, key: str) -> None:
        self.http = httpx2.Client(
            base_url=f"{site.server.base_url}/x/web_calls",
            headers={
                "authorization": f"Bearer {key}",
                "x-intramuros-web-tools": "web_fetch",
                "anthropic-worker-id": "by hand",
            },
            timeout=60,
        )

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def poll(self) -> Any:
        answer = self.http.get("/poll", params={"wait_ms": 300})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def answer(self, call: Any, **more: Any) -> httpx2.Response:
        body = {
            "ticket": call["ticket"],
            "epoch": call["epoch"],
            "content": [{"type": "text", "text": "from inside"}],
            **more,
        }
        return self.http.post(f"/{call['id']}", json=body)

    def wanted(self, call: Any) -> Any:
        claim = {"ticket": call["ticket"], "epoch": call["epoch"]}
        return self.http.post(f"/{call['id']}/heartbeat", json=claim).json()


def test_a_call_is_given_to_one_worker_and_answered_once(site: Site) -> None:
    with (
        Door(site, site.key) as door,
        Door(site, site.environment_key(site.environment())) as other,
    ):
        assert door.poll() is None, "now the server knows that somebody is there"
        session = surf(site, "pagereader", say="http://intranet.test/page")
        call = until(door.poll)
        assert (call["name"], call["asked"]) == ("web_fetch", "http://intranet.test/page")
        assert call["blocked"] == ["forbidden.test"]
        assert door.poll() is None
        assert door.wanted(call) == {"wanted": True}
        assert other.wanted(call) == {"wanted": False}
        for refused, status in (
            (other.answer(call), 409),
            (door.answer(call, epoch=call["epoch"] + 1), 409),
            (door.answer({**call, "id": "sevt_other"}), 409),
            (door.answer(call, ticket="web/x:y"), 409),
            (door.answer(call, content=[]), 400),
            (door.answer(call, content=[_image()]), 400),
            (door.answer(call, content=[_elsewhere()]), 400),
            (door.answer(call, searches=7), 400),
        ):
            assert refused.status_code == status, refused.text
        assert door.answer(call).status_code == 200
        assert door.answer(call).status_code == 409, "answered once"
        assert door.wanted(call) == {"wanted": False}
        events = site.wait(session, "session.status_idle")
        assert told(events) == "from inside"
        assert len(of(events, "agent.tool_result")) == 1


def _image() -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    return {"type": "image", "source": source}


def _elsewhere() -> dict[str, Any]:
    return {"type": "document", "source": {"type": "file", "file_id": "file_other"}}


def test_what_a_worker_asks_for_is_checked(site: Site) -> None:
    with Door(site, site.key) as door:
        for tools in ("", "bash", "web_fetch,bash"):
            answer = door.http.get("/poll", headers={"x-intramuros-web-tools": tools})
            assert answer.status_code == 400
    assert site.http.get("/x/web_calls/poll").status_code == 403, "for workers only"
