"""Which pages a model may read: those that somebody else has named."""

from typing import Any

import pytest

from intramuros.control.session import web_calls
from intramuros.control.session.turn import MakeCalls
from intramuros.control.store.records import Draft
from intramuros.web.base import Answer, Fetch, Search
from tests.fakes.loop import CUSTOM, WEB, Loop, agent, found, text, toolset, use, uses

URL = "https://x.com/a?b=c"


def loop(*model: Any, web: Any = (), tools: Any = (), **config: Any) -> Loop:
    declared = agent(toolset(web_fetch=config), CUSTOM, *tools)
    return Loop(declared, model=[*model, text("ok")], web=web, served=WEB)


def wants(given: Loop) -> Fetch | Search | Answer:
    """Go on to the next web call and return what it asks for."""
    while not isinstance(effect := given.next(), MakeCalls):
        given.perform(effect)
    return web_calls.ask(given.view, effect.calls[0])


def fetches(said: str, url: str = URL, **config: Any) -> Fetch | Search | Answer:
    given = loop(uses(use("web_fetch", url=url)), **config)
    given.log.say(said)
    return wants(given)


def refused(asked: Fetch | Search | Answer) -> str:
    assert isinstance(asked, Answer)
    assert asked.is_error
    return str(asked.content[0]["text"]).partition(":")[0]


def test_c6_23_a_page_that_the_user_named_is_read() -> None:
    asked = fetches(f"Look at {URL}, please.", max_content_tokens=9)
    assert isinstance(asked, Fetch)
    assert (asked.url, asked.max_tokens, asked.caller.session_id) == (URL, 9, "sesn_1")
    assert isinstance(fetches("Look at x.com/a?b=c.", URL), Fetch)
    assert isinstance(fetches("Look at x.com", "https://x.com/"), Fetch)


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("hello", URL),
        (URL, URL + "d"),
        (URL, "https://x.com/"),
        (URL, "https://y.com/a?b=c"),
        ("https://evil.com/", "https://evil.com/?secret=1"),
    ],
)
def test_c6_23_a_page_that_nobody_named_is_not(said: str, url: str) -> None:
    assert refused(fetches(said, url)) == "url_not_in_prior_context"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (None, "invalid_tool_input"),
        (1, "invalid_tool_input"),
        ("ftp://x.com/", "invalid_tool_input"),
        ("x.com", "invalid_tool_input"),
        ("https://u:p@x.com/", "invalid_tool_input"),
        ("https://x.com/" + "a" * 240, "url_too_long"),
    ],
)
def test_inputs_are_checked(url: Any, code: str) -> None:
    assert refused(fetches(str(url), url)) == code


def test_c6_21_domains_outside_the_lists_are_refused() -> None:
    assert refused(fetches(URL, allowed_domains=["y.com"])) == "url_not_allowed"
    assert refused(fetches(URL, blocked_domains=["x.com"])) == "url_not_allowed"
    assert isinstance(fetches(URL, allowed_domains=["x.com"]), Fetch)


def after_custom(content: Any, *, is_error: bool = False, **config: Any) -> Any:
    given = loop(uses(use("weather")), uses(use("web_fetch", "toolu_2", url=URL)), **config)
    given.log.say("go")
    given.run()
    [call] = given.log.state.calls
    given.log.send(
        "user.custom_tool_result",
        custom_tool_use_id=call.id,
        content=content,
        is_error=is_error,
    )
    return wants(given)


TEXT = [{"type": "text", "text": f"see {URL}"}]
HIT = [{"type": "search_result", "source": URL, "title": "t", "content": []}]
DOCUMENT = [{"type": "document", "source": {"type": "text", "data": f"[a]({URL})"}}]
ONLY = {"type": "only", "tools": [{"type": "tool_reference", "name": "weather"}]}
OTHER = {"type": "only", "tools": [{"type": "tool_reference", "name": "climate"}]}
EXCEPT = {"type": "except", "tools": [{"type": "tool_reference", "name": "weather"}]}


@pytest.mark.parametrize("content", [TEXT, HIT, DOCUMENT])
def test_c6_23_custom_tools_name_pages(content: Any) -> None:
    assert isinstance(after_custom(content), Fetch)
    assert refused(after_custom(content, is_error=True)) == "url_not_in_prior_context"


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        (None, True),
        ("all", True),
        ({"type": "all"}, True),
        ("none", False),
        ({"type": "none"}, False),
        (ONLY, True),
        (OTHER, False),
        (EXCEPT, False),
        ({**OTHER, "type": "except"}, True),
    ],
)
def test_c6_23_the_agent_says_which_tools_name_pages(source: Any, taken: bool) -> None:
    asked = after_custom(TEXT, url_sources={"client_tool_results": source})
    assert isinstance(asked, Fetch) is taken


@pytest.mark.parametrize("source", ["none", {"type": "none"}])
def test_c6_23_users_may_be_left_out(source: Any) -> None:
    asked = fetches(URL, url_sources={"user_input": source})
    assert refused(asked) == "url_not_in_prior_context"
    assert isinstance(fetches(URL, url_sources={"client_tool_results": source}), Fetch)


def after_web(name: str, page: Answer, **config: Any) -> Any:
    given = loop(
        uses(use(name, url="https://y.com/", query="q")),
        uses(use("web_fetch", "toolu_2", url=URL)),
        web=[page],
        **config,
    )
    given.log.say("https://y.com/")
    first = given.next()
    while not isinstance(first, MakeCalls):
        given.perform(first)
        first = given.next()
    given.perform(first)
    return wants(given)


@pytest.mark.parametrize("name", ["web_fetch", "web_search"])
def test_c6_23_pages_and_searches_name_pages(name: str) -> None:
    assert isinstance(after_web(name, found(f"[a]({URL})")), Fetch)
    only = {"type": "only", "tools": [{"type": "tool_reference", "name": name}]}
    without = {**only, "type": "except"}
    for source, taken in ((only, True), (without, False), ("none", False)):
        asked = after_web(name, found(URL), url_sources={"server_tool_results": source})
        assert isinstance(asked, Fetch) is taken
    failed = Answer([{"type": "text", "text": URL}], is_error=True)
    assert refused(after_web(name, failed)) == "url_not_in_prior_context"


def test_what_the_sandbox_or_the_model_says_names_nothing() -> None:
    """A model can make a sandbox print any address."""
    say = uses({"type": "text", "text": URL}, use("bash", command=f"echo {URL}"))
    given = loop(say, uses(use("web_fetch", "toolu_2", url=URL)))
    given.log.say("go")
    given.run()
    [call] = given.log.state.calls
    given.log.send("user.tool_result", tool_use_id=call.id, content=TEXT)
    assert refused(wants(given)) == "url_not_in_prior_context"


def test_a_refused_page_is_not_named_by_its_refusal() -> None:
    given = loop(*(uses(use("web_fetch", f"toolu_{n}", url=URL)) for n in range(3)))
    given.log.say("go")
    given.run()
    results = [r for r in given.log.records if r.type == "agent.tool_result"]
    assert [r.body["is_error"] for r in results] == [True] * 3
    assert not given.browsed


def test_an_outcome_names_pages_too() -> None:
    given = loop(uses(use("web_fetch", url=URL)))
    rubric = {"type": "text", "content": "- good"}
    body = {"outcome_id": "outc_1", "description": f"Summarise {URL}", "rubric": rubric}
    given.log.append(Draft("user.define_outcome", {**body, "max_iterations": 1}))
    given.log.say("go")
    assert isinstance(wants(given), Fetch)


def test_searches_take_their_settings() -> None:
    place = {"type": "approximate", "country": "DE", "city": None}
    declared = agent(toolset(web_search={"blocked_domains": ["x.com"], "user_location": place}))
    given = Loop(declared, model=[uses(use("web_search", query="q"))], served=WEB)
    given.log.say("go")
    asked = wants(given)
    assert isinstance(asked, Search)
    assert asked.query == "q"
    assert asked.location == {"type": "approximate", "country": "DE"}
    assert not asked.rules.permits("x.com")
    for query in (None, 7, "", "  "):
        given = Loop(declared, model=[uses(use("web_search", query=query))], served=WEB)
        given.log.say("go")
        assert refused(wants(given)) == "invalid_tool_input"
