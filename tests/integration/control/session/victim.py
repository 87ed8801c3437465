"""A server process to be killed: it reaches the middle of a turn and stays there.

``python -m tests.integration.control.session.victim DATABASE model|mcp|web|judge|backoff``
prints ``reached``.
"""

import sys

import anyio

from intramuros.control.mcp.base import McpResult
from intramuros.control.model.base import ModelReply, ModelRequest
from intramuros.control.session.phase import Phase
from intramuros.web.base import Answer, Fetch, Search
from tests.fakes.loop import away, use, uses
from tests.integration.control.session.rig import Rig
from tests.integration.control.session.test_runner import BRIEF


async def stay() -> None:
    sys.stdout.write("reached\n")
    sys.stdout.flush()
    await anyio.sleep_forever()


async def asked(request: ModelRequest) -> ModelReply:
    await stay()
    raise AssertionError


async def called(tool: str) -> McpResult:
    await stay()
    raise AssertionError


async def browsed(_: Fetch | Search) -> Answer:
    await stay()
    raise AssertionError


async def main(file: str, where: str) -> None:
    rig = Rig(file, settings=BRIEF, fresh=False)
    rig.connector.handler = called
    rig.web.handler = browsed
    if where == "model":
        rig.model.answers.append(asked)
    elif where == "backoff":
        rig.model.answers.append(away(retry_after_s=2.0))
    elif where == "web":
        rig.model.answers.append(uses(use("web_search", query="q")))
    else:
        rig.model.answers.append(uses(use("mcp__db__insert")))
    if where == "judge":
        rig.model.answers.append(asked)
    async with rig.running():
        if where == "backoff":
            await rig.until("sesn_1", lambda state: state.phase is Phase.RESCHEDULING)
            await stay()
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
