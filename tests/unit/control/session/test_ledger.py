from intramuros.control.session.ledger import entry
from intramuros.control.session.turn import MakeCalls
from intramuros.control.store.records import Record
from tests.fakes.loop import ROWS, WEB, Loop, agent, found, mcp_toolset, text, toolset, use, uses

URL = "https://user-named.com/a/b?token=hush"


def entries(loop: Loop) -> list[tuple[str, dict[str, object]]]:
    def made(record: Record) -> list[tuple[str, dict[str, object]]]:
        act = entry(loop.view, record)
        return [] if act is None else [(act.kind, dict(act.fields))]

    return [found for record in loop.log.records for found in made(record)]


def test_a_web_call_is_kept_with_host_and_path_and_never_a_query() -> None:
    loop = Loop(
        agent(toolset()),
        model=[uses(use("web_fetch", url=URL), use("web_search", "t2", query="hush")), text("ok")],
        web=[found("page"), found("hits", searches=1)],
        served=WEB,
    )
    loop.log.say(URL)
    loop.run()
    (one, fetch), (two, search), (three, page), (four, _) = entries(loop)
    assert (one, two, three, four) == ("web.call", "web.call", "web.result", "web.result")
    assert (fetch["host"], fetch["path"], fetch["tool"]) == ("user-named.com", "/a/b", "web_fetch")
    assert "host" not in search
    assert (page["hosts"], page["is_error"], page["call"]) == (["x.com"], False, fetch["call"])
    assert "hush" not in str(entries(loop))


def test_a_url_that_is_none_is_kept_as_a_digest() -> None:
    loop = Loop(
        agent(toolset()), model=[uses(use("web_fetch", url="hush")), text("ok")], served=WEB
    )
    loop.log.say()
    loop.run()
    (kind, call), (_, result) = entries(loop)
    assert kind == "web.call"
    assert "host" not in call
    assert result["error"] == "invalid_tool_input"
    assert "hush" not in str(call)


def test_an_interrupted_web_call_has_a_result_too() -> None:
    loop = Loop(agent(toolset()), model=[uses(use("web_search", query="q"))], served=WEB)
    loop.log.say()
    while not isinstance(effect := loop.next(), MakeCalls):
        loop.perform(effect)
    loop.log.send("user.interrupt")
    loop.run()
    assert [kind for kind, _ in entries(loop)] == ["web.call", "web.result"]


def test_mcp_calls_are_kept_and_sandbox_calls_are_not() -> None:
    loop = Loop(
        agent(toolset(), mcp_toolset()),
        model=[uses(use("mcp__db__query", sql="select 1"), use("bash", "t2", command="ls"))],
        mcp=[ROWS],
        self_hosted=False,
    )
    loop.log.say()
    loop.run()
    (one, call), (two, result) = entries(loop)
    assert (one, two) == ("mcp.call", "mcp.result")
    assert (call["server"], call["tool"]) == ("db", "query")
    assert result["is_error"] is False


def test_a_denied_call_is_kept() -> None:
    loop = Loop(agent())
    body = {
        "name": "bash",
        "input": {"command": "hush"},
        "evaluated_permission": "deny",
        "evaluation": {
            "type": "auto",
            "evaluated_permission": {"type": "deny", "reason_code": "high_risk"},
        },
    }
    act = entry(loop.view, Record("sesn_1", 1, "sevt_1", "agent.tool_use", 1, body))
    assert act is not None
    assert (act.kind, act.fields["reason"]) == ("tool.denied", "high_risk")
    assert "hush" not in str(act)
