from pathlib import Path
from typing import Any

import pytest

from intramuros.control.inference.rounds import Json
from intramuros.control.inference.sources import ProviderSource, ScriptedSource
from intramuros.control.model.assemble import Assembler
from intramuros.control.model.scripted import ScriptedModel
from intramuros.control.model.upstream import Upstream
from intramuros.kernel.errors import DomainError, InvalidRequest, NotFound, Overloaded, Unavailable
from intramuros.kernel.ids import IdFactory
from tests.fakes.messages_server import FakeMessages, Fault

pytestmark = pytest.mark.anyio

SCRIPT = """
steps:
- text: I look it up.
  tools: [{name: look, input: {page: 7}}]
"""
ASK: Any = {"model": "m", "messages": [{"role": "user", "content": "go"}]}


async def collect(source: Any, body: Json) -> list[Json]:
    seen: list[Json] = []

    async def emit(event: Json) -> None:
        seen.append(event)

    await source.run(body, emit)
    return seen


async def test_a_script_speaks_in_the_apis_events(tmp_path: Path, ids: IdFactory) -> None:
    (tmp_path / "s.yaml").write_text(SCRIPT)
    source = ScriptedSource(ScriptedModel(tmp_path), ids)
    tools = [{"name": "look", "description": "", "input_schema": {}}]
    seen = await collect(source, {**ASK, "model": "scripted/s", "tools": tools})
    assembler = Assembler()
    for event in seen:
        assembler.feed(event)
    text, call = assembler.reply.content
    assert text["text"] == "I look it up."
    assert (call["name"], call["input"]) == ("look", {"page": 7})
    assert sum(e["type"] == "content_block_delta" for e in seen) == 5


async def test_what_no_script_can_play_is_refused(tmp_path: Path, ids: IdFactory) -> None:
    (tmp_path / "s.yaml").write_text(SCRIPT)
    source = ScriptedSource(ScriptedModel(tmp_path), ids)
    with pytest.raises(NotFound, match="no script"):
        await collect(source, {**ASK, "model": "scripted/none"})
    for messages in (None, "x", ["x"], [{"content": 1}], [{"content": ["x"]}]):
        with pytest.raises(InvalidRequest, match="messages"):
            await collect(source, {"model": "scripted/s", "messages": messages})


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("error", at=3), Overloaded),
        (Fault("cut", at=3), Unavailable),
        (Fault("garbage", at=3), Unavailable),
    ],
)
async def test_a_provider_that_fails_midway(fault: Fault, expected: type[DomainError]) -> None:
    fake = FakeMessages.saying([{"type": "text", "text": "hello"}])
    fake.faults.append(fault)
    async with fake.running() as base_url:
        upstream = Upstream(base_url, None)
        with pytest.raises(expected):
            await collect(ProviderSource(upstream, {}), ASK)
        seen = await collect(ProviderSource(upstream, {}), ASK)
        await upstream.aclose()
    assert seen[-1]["type"] == "message_stop"
    assert fake.bodies[0]["stream"] is True
