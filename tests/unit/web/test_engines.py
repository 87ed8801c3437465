"""Questions and answers in the shapes of the engines' public documentation."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.web.domains import Rules, rules_of
from intramuros.web.engines import ENGINES, BadAnswer, Brave, Engine, Searxng, Tavily

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["web", "results", "url", "title", "content", "age", "x"]), inner
        )
    ),
    max_leaves=12,
)
ALL: list[Any] = [Searxng("https://s.example"), Brave("u", "k"), Tavily("u", "k")]


def test_searxng_is_asked_for_json() -> None:
    asked = Searxng("https://s.example").question("cats", Rules(), {})
    assert asked.url == "https://s.example/search"
    assert asked.params == {"q": "cats", "format": "json", "categories": "general"}
    assert asked.body is None
    assert not asked.headers
    answer = {
        "query": "cats",
        "results": [
            {"url": "https://a.com", "title": "A", "content": "x\n y", "publishedDate": None},
            {"url": "https://b.com", "title": "B", "publishedDate": "2026-01-02T00:00:00"},
        ],
        "suggestions": [],
    }
    one, two = Searxng("u").hits(answer)
    assert (one.url, one.title, one.text, one.age) == ("https://a.com", "A", "x y", "")
    assert (two.text, two.age) == ("", "2026-01-02T00:00:00")


def test_brave_is_asked_with_key_and_location() -> None:
    place = {"type": "approximate", "country": "DE", "city": "Köln", "timezone": "Europe/Berlin"}
    asked = Brave("https://b.example/res/v1", "secret").question("cats", Rules(), place)
    assert asked.url == "https://b.example/res/v1/web/search"
    assert asked.headers["x-subscription-token"] == "secret"
    assert asked.headers["x-loc-timezone"] == "Europe/Berlin"
    assert "x-loc-city" not in asked.headers, "headers are ASCII"
    assert asked.params["country"] == "DE"
    item = {"url": "https://a.com", "title": "A", "description": "x", "extra_snippets": ["y"]}
    [hit] = Brave("u", "k").hits({"web": {"results": [{**item, "age": "2 days ago"}]}})
    assert (hit.text, hit.age) == ("x y", "2 days ago")
    assert Brave("u", "k").hits({"type": "search", "query": {}}) == []


def test_tavily_is_told_the_domains() -> None:
    rules = rules_of(["a.com", "b.com/docs"], None).within([rules_of(None, ["x.a.com", "c.com/y"])])
    asked = Tavily("https://t.example", "secret").question("cats", rules, {})
    assert asked.url == "https://t.example/search"
    assert asked.headers == {"authorization": "Bearer secret"}
    assert asked.body is not None
    assert asked.body["include_domains"] == ["a.com", "b.com"]
    assert asked.body["exclude_domains"] == ["x.a.com"], "a path must not cost its host"
    [hit] = Tavily("u", "k").hits(
        {"results": [{"url": "https://a.com", "title": "A", "content": "x", "score": 0.9}]}
    )
    assert hit.url == "https://a.com"


def test_few_allowed_domains_become_part_of_the_query() -> None:
    few = rules_of(["a.com", "b.com/docs"], None)
    assert Searxng("u").question("q", few, {}).params["q"] == "q (site:a.com OR site:b.com)"
    many = rules_of([f"a{n}.com" for n in range(9)], None)
    assert Searxng("u").question("q", many, {}).params["q"] == "q"
    assert Searxng("u").question("q" * 395, few, {}).params["q"] == "q" * 395


def test_keys_do_not_show() -> None:
    for engine in ENGINES.values():
        made = engine("https://e.example", "hush-hush")
        assert "hush-hush" not in repr(made)
        assert "hush-hush" not in repr(made.question("q", Rules(), {}))


@pytest.mark.parametrize("engine", ALL, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "answer", [None, [], "x", {"results": {}, "web": {"results": {}}}, {"web": []}]
)
def test_another_answer_is_refused(engine: Engine, answer: object) -> None:
    with pytest.raises(BadAnswer):
        engine.hits(answer)


@given(JSON, st.sampled_from(ALL))
def test_any_answer_is_read_or_refused(answer: object, engine: Engine) -> None:
    try:
        hits = engine.hits(answer)
    except BadAnswer:
        return
    assert all(isinstance(hit.url, str) and isinstance(hit.text, str) for hit in hits)
