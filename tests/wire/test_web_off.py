"""What a server does whose operator has not switched the web on: the shared one."""

from tests.wire.site import Site
from tests.wire.test_web import ended, of, said, surf


def test_without_the_operators_word_no_web_tool_is_offered(site: Site) -> None:
    """Agents may configure the tools all the same; they are accepted as everywhere."""
    session = surf(site, "pagereader", say="http://127.0.0.1:9/page", web_fetch={"enabled": True})
    events = ended(site, session)
    assert "0 tools named 'web_fetch' are offered" in said(events)
    assert of(events, "agent.tool_use") == []
