from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from intramuros.control.mcp.base import McpResult
from intramuros.control.session import outcome, spills
from intramuros.control.session.spills import MAX_KEPT, Spills
from intramuros.control.store import holdings
from intramuros.control.store.blobs import Blobs
from intramuros.control.store.db import Tx
from intramuros.control.store.records import Record
from intramuros.control.store.tables import blobs
from intramuros.kernel.errors import NotFound
from tests.fakes.loop import Loop, agent, mcp_toolset, toolset, use, uses

pytestmark = pytest.mark.anyio

IMAGE = {"type": "image", "source": {"type": "base64", "data": "aGk=", "media_type": "image/png"}}
LONG = McpResult(
    [{"type": "text", "text": "é" * 60_000}, IMAGE, {"type": "text", "text": "z" * 50_000}]
)


def called(*tools: Any, self_hosted: bool = False) -> Loop:
    """A session that waits for the answer of an MCP server."""
    loop = Loop(
        agent(mcp_toolset(), *tools),
        model=[uses(use("mcp__db__query"))],
        self_hosted=self_hosted,
    )
    loop.subject = replace(loop.subject, workspace_id="wrkspc_test")
    loop._view = replace(loop._view, subject=loop.subject)
    loop.log.say()
    for _ in range(2):
        loop.perform(loop.next())
    loop.next()
    return loop


def store(tmp_path: Path) -> Blobs:
    return Blobs.open(None, tmp_path)


def kept(loop: Loop, spilled: outcome.Spilled, tx: Tx) -> Record:
    """Record the result as the loop does, and hold its text."""
    (call,) = loop.log.state.calls
    draft = outcome.mcp_answered(loop.view, call, LONG, 100, spilled)
    (record,) = loop.log.append(draft)
    spills.hold(tx, loop.view, [record])
    return record


@pytest.mark.rule("c6_25", "R108")
async def test_a_long_result_is_kept_whole_and_shown_in_part(tmp_path: Path, tx: Tx) -> None:
    loop, where = called(toolset()), store(tmp_path)
    (call,) = loop.log.state.calls
    spilled = await Spills(where).keep(loop.view, call.id, LONG)
    assert spilled is not None
    shown, image = spilled.content
    assert image == IMAGE, "what is no text stays"
    assert (
        f"the whole output can be read in /workspace/.intramuros/outputs/{call.id}.txt"
        in shown["text"]
    )
    assert "unless" not in shown["text"]
    record = kept(loop, spilled, tx)
    assert record.body["content"] == [shown, IMAGE]
    assert "spill" not in record.public(), "clients see nothing of where it lies"
    blob = spills.get(tx, "sesn_1", call.id)
    data = b"".join([chunk async for chunk in await where.read(blob)]).decode()
    assert data == "é" * 60_000 + "\n" + "z" * 50_000
    assert holdings.used(tx) == 0, "it is counted against nothing"


async def test_nothing_is_kept_that_fits_or_that_no_sandbox_could_read(tmp_path: Path) -> None:
    loop, keeper = called(toolset()), Spills(store(tmp_path))
    short = McpResult([{"type": "text", "text": "x" * 100_000}])
    assert await keeper.keep(loop.view, "sevt_1", short) is None
    assert await Spills(store(tmp_path), 0).keep(loop.view, "sevt_1", LONG) is None
    assert await keeper.keep(called().view, "sevt_1", LONG) is None, "no sandbox tools"
    off = toolset()
    off["default_config"] = {"enabled": False}
    assert await keeper.keep(called(off).view, "sevt_1", LONG) is None


async def test_what_is_kept_is_bounded_and_the_preview_says_so(tmp_path: Path, tx: Tx) -> None:
    loop = called(toolset(), self_hosted=True)
    spilled = await Spills(store(tmp_path), 1_001).keep(loop.view, "sevt_1", LONG)
    assert spilled is not None
    assert "the first 1000 of 170001 bytes can be read" in spilled.content[0]["text"]
    assert "unless this environment's worker provides no such files" in spilled.content[0]["text"]


async def test_a_store_that_refuses_leaves_the_result_to_be_cut(tmp_path: Path) -> None:
    loop, where = called(toolset()), store(tmp_path)
    (tmp_path / "blobs").rmdir()
    (tmp_path / "blobs").write_text("a file where the directory was")
    assert await Spills(where).keep(loop.view, "sevt_1", LONG) is None


def test_the_newest_are_held_and_all_go_with_the_session(tx: Tx) -> None:
    loop = called(toolset())
    rows = [
        Record(
            "sesn_1",
            n,
            f"sevt_r{n}",
            "agent.mcp_tool_result",
            n,
            {"mcp_tool_use_id": f"sevt_{n:04}"},
            private={"spill": [f"key{n}", 5, "ab"]},
        )
        for n in range(MAX_KEPT + 3)
    ]
    for row in rows:
        spills.hold(tx, loop.view, [row])
    spills.hold(
        tx, loop.view, [Record("sesn_1", 99, "sevt_9", "agent.mcp_tool_result", 9, {}, private={})]
    )
    found = spills.of_session(tx, "sesn_1")
    assert len(found) == MAX_KEPT
    assert next(iter(found)) == "sevt_0003", "the oldest went"
    assert found["sevt_0003"].key == "key3"
    assert spills.of_session(tx, "sesn_10") == {}
    assert spills.of_session(tx, "sesn_") == {}
    with pytest.raises(NotFound):
        spills.get(tx, "sesn_1", "sevt_0000")
    spills.release(tx, "sesn_10")
    assert len(spills.of_session(tx, "sesn_1")) == MAX_KEPT
    spills.release(tx, "sesn_1")
    assert tx.execute(select(blobs)).all() == []
