"""Searches over real connections to servers that speak the engines' APIs."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from intramuros.web.base import Answer
from intramuros.web.domains import Rules, rules_of
from intramuros.web.engines import Brave, Engine, Searxng, Tavily
from intramuros.web.search import MAX_HITS, Searcher
from tests.fakes.website import Origin, endless, moved, page, raw, serving, silent
from tests.unit.control.web.test_ways import proxying
from tests.unit.web.doubles import policy, search, ways

pytestmark = pytest.mark.anyio
KEY = "hush-hush-key"


@pytest.fixture(scope="module")
def engine() -> Iterator[Origin]:
    with serving() as made:
        yield made


@pytest.fixture(autouse=True)
def forgotten(engine: Origin) -> None:
    engine.pages.clear()
    engine.asked.clear()


def results(*urls: str) -> list[dict[str, Any]]:
    return [{"url": url, "title": f"T {url}", "content": "a passage"} for url in urls]


def found(*urls: str) -> Any:
    return page(json.dumps({"query": "q", "results": results(*urls)}), "application/json")


async def ask(origin: Origin, *, rules: Rules | None = None, made: Engine | None = None) -> Answer:
    made = made or Searxng(origin.url)
    return await Searcher(policy(), made, ways(policy())).search(search("  two\n words ", rules))


def sources(answer: Answer) -> list[object]:
    assert not answer.is_error, answer.content
    return [block.get("source") for block in answer.content]


def refused(answer: Answer) -> str:
    assert answer.is_error
    assert answer.searches == 0, "only what succeeds is charged"
    return str(answer.content[0]["text"])


async def test_hits_are_search_results(engine: Origin) -> None:
    engine.pages["/search"] = found("https://a.com/x", "https://b.com/y")
    answer = await ask(engine)
    assert answer.searches == 1
    assert answer.content[0] == {
        "type": "search_result",
        "source": "https://a.com/x",
        "title": "T https://a.com/x",
        "content": [{"type": "text", "text": "a passage"}],
        "citations": {"enabled": False},
    }
    assert engine.asked[0].target.startswith("/search?q=two+words&format=json")


async def test_each_engine_is_asked_as_its_documentation_says(engine: Origin) -> None:
    brave = {"web": {"results": [{"url": "https://a.com", "title": "A", "description": "d"}]}}
    engine.pages["/web/search"] = page(json.dumps(brave), "application/json")
    engine.pages["/search"] = found("https://b.com")
    assert sources(await ask(engine, made=Brave(engine.url, KEY))) == ["https://a.com"]
    assert sources(await ask(engine, made=Tavily(engine.url, KEY))) == ["https://b.com"]
    assert sources(await ask(engine, made=Searxng(engine.url, KEY))) == ["https://b.com"]
    one, two, three = engine.asked
    assert (one.method, one.headers["x-subscription-token"]) == ("GET", KEY)
    assert (two.method, two.headers["authorization"]) == ("POST", f"Bearer {KEY}")
    assert two.json()["query"] == "two words"
    assert three.headers["authorization"] == f"Bearer {KEY}"


async def test_c6_21_hits_outside_the_lists_are_dropped(engine: Origin) -> None:
    engine.pages["/search"] = found(
        "https://a.com/x",
        "https://docs.a.com/blog/1",
        "https://b.com/",
        "https://a.com.evil.org/",
        "http://10.0.0.1/",
        "javascript:alert(1)",
        "https://user@a.com/",
        "",
        "https://a.com/x",
    )
    allow = await ask(engine, rules=rules_of(["a.com"], None))
    assert sources(allow) == ["https://a.com/x", "https://docs.a.com/blog/1"]
    path = await ask(engine, rules=rules_of(["a.com/blog"], None))
    assert sources(path) == ["https://docs.a.com/blog/1"]
    block = await ask(engine, rules=rules_of(None, ["a.com", "10.0.0.1"]))
    assert sources(block) == ["https://b.com/", "https://a.com.evil.org/"]


async def test_the_operators_lists_win(engine: Origin) -> None:
    engine.pages["/search"] = found("https://a.com/", "https://b.com/")
    makes = Searcher(policy(rules=rules_of(None, ["a.com"])), Searxng(engine.url), ways(policy()))
    answer = await makes.search(search("q", rules_of(["a.com", "b.com"], None)))
    assert sources(answer) == ["https://b.com/"]


async def test_lists_without_a_common_domain_ask_nobody(engine: Origin) -> None:
    makes = Searcher(policy(rules=rules_of(["b.com"], None)), Searxng(engine.url), ways(policy()))
    answer = await makes.search(search("q", rules_of(["a.com"], None)))
    assert refused(answer).startswith("url_not_allowed: no domain is permitted")
    assert engine.asked == []


async def test_so_many_hits_are_shown_and_none_is_no_error(engine: Origin) -> None:
    engine.pages["/search"] = found(*(f"https://a.com/{n}" for n in range(30)))
    assert len((await ask(engine)).content) == MAX_HITS
    engine.pages["/search"] = found()
    answer = await ask(engine)
    assert answer.searches == 1
    assert answer.content == [{"type": "text", "text": "The search found nothing."}]


async def test_a_long_query_is_refused_unasked(engine: Origin) -> None:
    makes = Searcher(policy(), Searxng(engine.url), ways(policy()))
    assert refused(await makes.search(search("q" * 401))).startswith("query_too_long")
    assert engine.asked == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (page("slow down", status=429), "too_many_requests"),
        (page(f"bad key {KEY}", status=401), "unavailable: the search engine refused"),
        (page("forbidden", status=403), "unavailable"),
        (moved("https://elsewhere.example/"), "unavailable"),
        (page("<html>", "text/html"), "unavailable: the search engine gave no answer"),
        (page("[" * 100_000, "application/json"), "unavailable"),
        (page('{"results": 1}', "application/json"), "unavailable"),
        (raw(b""), "unavailable: the search engine cannot be reached"),
        (endless, "unavailable: the search engine's answer has no end"),
    ],
)
async def test_what_an_engine_cannot_do_is_told(
    engine: Origin, answer: Any, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    engine.pages["/search"] = answer
    told = await ask(engine, made=Tavily(engine.url, KEY))
    assert refused(told).startswith(code)
    assert KEY not in str(told)
    assert KEY not in "".join(capfd.readouterr())
    assert len(engine.asked) == 1, "asked once, redirects not followed"


async def test_a_silent_engine_gets_one_deadline(engine: Origin) -> None:
    engine.pages["/search"] = silent
    makes = Searcher(policy(timeout_s=0.3), Searxng(engine.url), ways(policy()))
    assert "no answer within 0.3 s" in refused(await makes.search(search("q")))


async def test_compressed_answers_are_inflated(engine: Origin) -> None:
    body = gzip.compress(json.dumps({"results": results("https://a.com")}).encode())
    engine.pages["/search"] = raw(
        b"HTTP/1.1 200 X\r\ncontent-encoding: gzip\r\nconnection: close\r\n\r\n" + body
    )
    assert sources(await ask(engine)) == ["https://a.com"]


async def test_public_engines_are_reached_through_the_proxy(engine: Origin) -> None:
    engine.pages["/search"] = found("https://a.com")
    with proxying() as proxy:
        bound = policy(proxy=httpx2.Proxy(proxy.url))
        for made in (Tavily(engine.url, KEY), Searxng(engine.url)):
            assert sources(await Searcher(bound, made, ways(bound)).search(search("q")))
        assert len(proxy.heads) == 1, "the operator's own is reached directly"
