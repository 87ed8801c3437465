"""A server process is killed in the middle of a turn; another one finishes it."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

from intramuros.control.session.turn import UNKNOWN_OUTCOME, WEB_LOST
from intramuros.kernel.config import clean_environment
from tests.engines import database_url
from tests.fakes.loop import ALLOW, AUTO, agent, mcp_toolset, opinion, text, toolset
from tests.integration.control.session.rig import Rig, types
from tests.integration.control.session.test_runner import BRIEF

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def killed_at(rig: Rig, file: Path, where: str) -> AsyncIterator[str]:
    """Yield a session whose server has been killed at that point."""
    tools = toolset() if where == "web" else mcp_toolset(AUTO if where == "judge" else ALLOW)
    session = await rig.create(agent(tools))
    await rig.say(session)
    command = [sys.executable, "-m", "tests.integration.control.session.victim"]
    command += [database_url(file), where]
    environment = {**clean_environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
    async with await anyio.open_process(command, stderr=None, env=environment) as victim:
        assert victim.stdout is not None
        said = b""
        with anyio.fail_after(60):
            # A busy machine has it lose its short lease first, and say so.
            while b"reached" not in said:
                said += await victim.stdout.receive()
        victim.kill()
        await victim.wait()
    yield session


@pytest.mark.timeout(240)
async def test_killed_in_a_model_request(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "log.db", settings=BRIEF)
    async with killed_at(rig, tmp_path / "log.db", "model") as session:
        assert (await rig.lease(session)).state == "held"
        rig.model.answers.append(text("finished by another"))
        async with rig.running():
            await rig.idle(session)
        log = types(await rig.log(session))
    assert log.count("span.model_request_start") == log.count("span.model_request_end") == 2
    assert log.count("agent.message") == 1
    rig.db.close()


@pytest.mark.timeout(240)
async def test_killed_between_two_attempts(tmp_path: Path) -> None:
    """The retry is the log's: another process makes it at its time, and counts on."""
    rig = Rig(tmp_path / "log.db", settings=BRIEF)
    async with killed_at(rig, tmp_path / "log.db", "backoff") as session:
        retry_at_us = (await rig.state(session)).retry_at_us
        rig.model.answers.append(text("back again"))
        async with rig.running():
            await rig.idle(session)
        log = await rig.log(session)
    starts = [record for record in log if record.type == "span.model_request_start"]
    assert len(starts) == 2
    assert retry_at_us is not None
    assert starts[1].at_us >= retry_at_us
    assert [request.failures for request in rig.model.requests] == [1]
    assert types(log).count("session.error") == 1
    rig.db.close()


@pytest.mark.timeout(240)
async def test_killed_in_an_mcp_call(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "log.db", settings=BRIEF)
    async with killed_at(rig, tmp_path / "log.db", "mcp") as session:
        rig.model.answers.append(text("I will check."))
        async with rig.running():
            await rig.idle(session)
        log = await rig.log(session)
    (result,) = [record for record in log if record.type == "agent.mcp_tool_result"]
    assert result.body["content"] == [{"type": "text", "text": UNKNOWN_OUTCOME}]
    assert rig.connector.calls == []  # never repeated
    rig.db.close()


@pytest.mark.timeout(240)
async def test_killed_in_a_web_call(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "log.db", settings=BRIEF)
    async with killed_at(rig, tmp_path / "log.db", "web") as session:
        rig.model.answers.append(text("I will look again."))
        async with rig.running():
            await rig.idle(session)
        log = await rig.log(session)
    (result,) = [record for record in log if record.type == "agent.tool_result"]
    assert result.body["content"] == [{"type": "text", "text": WEB_LOST}]
    assert rig.web.asked == []  # never repeated
    rig.db.close()


@pytest.mark.timeout(240)
async def test_killed_while_a_call_is_judged(tmp_path: Path) -> None:
    """The reply is durable, the call has not begun: another process judges and makes it, once."""
    rig = Rig(tmp_path / "log.db", settings=BRIEF)
    async with killed_at(rig, tmp_path / "log.db", "judge") as session:
        rig.model.answers += [opinion("allow"), text("done")]
        async with rig.running():
            await rig.idle(session)
        log = await rig.log(session)
    assert [request.purpose for request in rig.model.requests] == ["judge", "work"]
    assert [tool for tool, _ in rig.connector.calls] == ["insert"]
    (call,) = [record for record in log if record.type == "agent.mcp_tool_use"]
    assert call.body["evaluated_permission"] == "allow"
    rig.db.close()
