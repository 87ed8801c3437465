from intramuros.control.session.web_config import definition, entry, first, rules
from tests.fakes.loop import agent, toolset

LEAD = agent(
    toolset(
        web_fetch={"allowed_domains": ["a.com", "b.com"], "max_content_tokens": 100},
        web_search={"blocked_domains": ["x.com"], "user_location": {"country": "DE"}},
    )
)
CHILD = agent(
    toolset(
        web_fetch={"allowed_domains": ["docs.a.com", "c.com"], "max_content_tokens": None},
        web_search={"blocked_domains": ["y.com"]},
    )
)
OTHER = agent(toolset(web_fetch={"allowed_domains": ["c.com"]}))


def test_an_entry_is_found_or_empty() -> None:
    assert entry(LEAD, "web_fetch")["max_content_tokens"] == 100
    assert entry(agent(), "web_fetch") == {}
    assert entry(agent(toolset()), "web_fetch") == {}


def test_every_list_of_every_agent_binds() -> None:
    fetch = rules([CHILD, LEAD], "web_fetch")
    assert fetch.permits("x.docs.a.com")
    for host in ("a.com", "b.com", "c.com"):
        assert not fetch.permits(host)
    search = rules([CHILD, LEAD], "web_search")
    assert not search.permits("x.com")
    assert not search.permits("y.com")
    assert rules([agent()], "web_fetch").permits("any.example")


def test_settings_that_are_no_lists_come_from_the_first_that_has_them() -> None:
    assert first([CHILD, LEAD], "web_fetch", "max_content_tokens") == 100
    assert first([CHILD, LEAD], "web_search", "user_location") == {"country": "DE"}
    assert first([agent()], "web_fetch", "max_content_tokens") is None


def test_models_read_that_nothing_is_permitted() -> None:
    description, schema = definition([OTHER, LEAD], "web_fetch")
    assert "no domain in common" in description
    assert schema["required"] == ["url"]
    assert "no domain in common" not in definition([CHILD, LEAD], "web_fetch")[0]
    assert definition([LEAD], "web_search")[1]["required"] == ["query"]
