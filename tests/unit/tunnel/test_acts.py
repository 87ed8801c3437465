import pytest

from intramuros.tunnel.acts import Action, Target, act_of
from intramuros.tunnel.calls import Summary, summarise

STREAM = [(b"accept", b"application/json, text/event-stream")]


@pytest.mark.parametrize(
    ("method", "action"),
    [
        ("tools/call", Action.CALL_TOOL),
        ("resources/read", Action.READ_RESOURCE),
        ("resources/subscribe", Action.READ_RESOURCE),
        ("prompts/get", Action.GET_PROMPT),
        ("completion/complete", Action.COMPLETE),
        ("initialize", Action.CONNECT),
        ("server/discover", Action.CONNECT),
        ("tools/list", Action.CONNECT),
        ("resources/templates/list", Action.CONNECT),
        ("notifications/initialized", Action.CONNECT),
        ("response", Action.RESPOND),
        ("Tools/Call", Action.OTHER),
        ("tools/calls", Action.OTHER),
        ("tasks/result", Action.OTHER),
    ],
)
def test_methods_are_actions(method: str, action: Action) -> None:
    assert act_of("docs", "POST", "/mcp?x=1", STREAM, Summary(method)).action is action


def test_the_named_thing_is_acted_upon_or_else_the_server() -> None:
    body = b'{"id":1,"method":"tools/call","params":{"name":"a/b","arguments":{"x":1}}}'
    found = summarise(body, b"application/json")
    act = act_of("docs", "POST", "/mcp?x=1", [], found)
    assert (act.target, act.target_id, act.path) == (Target.TOOL, "docs/a/b", "/mcp")
    assert (act.arguments, found.id) == ({"x": 1}, 1)
    nameless = act_of("docs", "POST", "/mcp", [], Summary("tools/call"))
    assert (nameless.action, nameless.target_id) == (Action.CALL_TOOL, "docs")
    assert act_of("docs", "POST", "/mcp", [], Summary("ping", "x")).target_id == "docs"


def test_what_is_no_message_is_a_stream_an_end_or_plain_http() -> None:
    nothing = Summary()
    assert act_of("d", "GET", "/mcp", STREAM, nothing).action is Action.CONNECT
    assert act_of("d", "GET", "/admin", [(b"accept", b"*/*")], nothing).action is Action.HTTP
    goes_on = [(b"accept", b"*/*"), (b"last-event-id", b"1")]
    assert act_of("d", "GET", "/mcp", goes_on, nothing).action is Action.CONNECT
    ending = [(b"mcp-session-id", b"s")]
    assert act_of("d", "DELETE", "/mcp", ending, nothing).action is Action.CONNECT
    assert act_of("d", "DELETE", "/mcp", [], nothing).action is Action.HTTP
    assert act_of("d", "POST", "/token", STREAM, nothing).action is Action.HTTP
    assert act_of("d", "GET", "/mcp", STREAM, Summary("tools/call", "x")).action is Action.OTHER
