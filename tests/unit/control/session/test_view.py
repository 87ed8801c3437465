from dataclasses import replace

import pytest

from intramuros.control.mcp.base import Caller, McpServer
from intramuros.control.session.fold_thread import IllegalRecord
from intramuros.control.session.view import View, dump_tool, identified, load_tool
from intramuros.control.store.records import Draft
from tests.fakes.loop import (
    INSERT,
    QUERY,
    Loop,
    agent,
    mcp_toolset,
    text,
    unreachable,
    use,
    uses,
)


def talked() -> Loop:
    loop = Loop(agent(mcp_toolset()), model=[text("a"), text("b")])
    loop.log.say()
    loop.run()
    return loop


def test_extending_goes_on_where_the_log_stopped() -> None:
    loop = talked()
    start = View.empty(loop.subject, Loop(agent()).log.state)
    half = start.extend(loop.log.records[:4])
    assert half.extend(loop.log.records[4:]).state == loop.log.state
    with pytest.raises(IllegalRecord):
        half.extend(loop.log.records[5:])


def test_expecting_is_what_appending_does() -> None:
    loop = talked()
    drafts = identified([Draft("session.error", {"error": {}})], loop.log.new_id)
    expected = loop.view.expect(drafts, loop.log.now_us + 1, loop.log.new_id)
    loop.log.append(*drafts)
    assert expected.state == loop.view.state
    assert expected.records[-1].id == loop.log.records[-1].id


def test_identified_drafts_keep_the_ids_they_have() -> None:
    named, fresh = identified([Draft("a", id="sevt_x"), Draft("b")], lambda: "sevt_y")
    assert (named.id, fresh.id) == ("sevt_x", "sevt_y")


def test_finding_gives_the_newest_row_of_an_event() -> None:
    loop = talked()
    message = next(record for record in loop.log.records if record.queued)
    (found,) = loop.view.find([message.id])
    assert not found.queued
    assert loop.view.find(["sevt_unknown"]) == []


def test_waiting_inputs_are_in_their_order() -> None:
    loop = Loop(agent())
    ids = [loop.log.say("one"), loop.log.say("two")]
    assert [record.id for record in loop.view.waiting()] == ids


def test_only_servers_that_answered_this_turn_count() -> None:
    loop = talked()
    assert loop.view.discovered() == {"db": [QUERY, INSERT]}
    loop.tools = unreachable()
    loop.log.say()
    loop.run()
    assert loop.view.discovered() == {}


def test_nothing_is_discovered_before_a_turn() -> None:
    assert Loop(agent(mcp_toolset())).view.discovered() == {}


def test_a_tool_survives_the_log() -> None:
    assert load_tool(dump_tool(QUERY)) == QUERY


def test_a_subject_knows_its_servers_and_caller() -> None:
    subject = Loop(agent(mcp_toolset())).subject
    assert subject.servers == [McpServer("db", "https://db.example/mcp")]
    assert subject.caller == Caller("wrkspc_1", "sesn_1")


def test_a_server_that_changes_its_tools_is_believed_at_the_next_turn() -> None:
    gone = uses(use("mcp__db__query"))
    loop = Loop(
        agent(mcp_toolset()),
        model=[text("a"), gone, text("b"), text("c")],
        tools=[QUERY, INSERT],
    )
    loop.log.say()
    loop.run()
    renamed = replace(QUERY, name="search")
    narrowed = replace(INSERT, description="Adds a row, now elsewhere.")
    loop.tools = [renamed, narrowed]
    loop.log.say()
    loop.run()
    first, second = (request.tools for request in loop.requests[:2])
    assert [tool["name"] for tool in first] == ["mcp__db__query", "mcp__db__insert"]
    assert [tool["name"] for tool in second] == ["mcp__db__search", "mcp__db__insert"]
    assert second[1]["description"] == "Adds a row, now elsewhere."
    # What is called by its old name is refused, and the model is told.
    assert loop.performed == []
    assert "There is no tool" in str(loop.requests[2].messages[-1])
    # What did not change is not kept twice.
    kept = sum(record.type == "internal.mcp_tools" for record in loop.log.records)
    loop.log.say()
    loop.run()
    assert sum(r.type == "internal.mcp_tools" for r in loop.log.records) == kept == 2
