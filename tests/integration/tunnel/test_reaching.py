"""Programs behind routes while a gateway's configuration changes: whose session lives on."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from tests.fakes import mcp_program
from tests.integration.tunnel.rig import client_of, eventually
from tests.integration.tunnel.test_program_routes import alive, ask, events, pid_of, start
from tests.integration.tunnel.test_reload import Installation, installed, quick

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
__all__ = ["quick"]

SCRIPT = Path(mcp_program.__file__)


def route(**more: Any) -> dict[str, Any]:
    return {"command": [sys.executable, "-I", str(SCRIPT)], "sandbox": False, **more}


async def gone(pid: int) -> bool:
    return not alive(pid)


async def asking(
    client: httpx2.AsyncClient, session: str, found: list[Any], tool: str, **arguments: Any
) -> None:
    found.extend(events(await ask(client, session, 7, tool, **arguments)))


async def test_sessions_of_an_unchanged_route_live_on_and_others_are_closed_with_an_answer(
    tmp_path: Path,
) -> None:
    async with installed(tmp_path, routes={"tools": route()}) as (here, client):
        session = (await start(client)).headers["mcp-session-id"]
        pid = await pid_of(client, session)
        here.write(routes={"tools": route(), "docs": here.one})
        await here.told("configuration_reloaded")
        assert await pid_of(client, session) == pid
        quick_one: list[Any] = []
        slow_one: list[Any] = []
        async with anyio.create_task_group() as group:
            group.start_soon(partial(asking, client, session, slow_one, "sleep", seconds=60))
            other = (await start(client)).headers["mcp-session-id"]
            pids = pid, await pid_of(client, other)
            group.start_soon(partial(asking, client, other, quick_one, "sleep", seconds=0.5))
            await under_way(here, 2)
            here.write(routes={"tools": route(variables={"LEVEL": "info"})})
            await here.told("configuration_reloaded", 2)
            # The route's new program knows nobody yet, and serves at once.
            assert (await ask(client, session, 8, "pid")).status_code == 404
            fresh = (await start(client)).headers["mcp-session-id"]
            assert await pid_of(client, fresh) not in pids
        # Who could finish did, and who could not was told.
        assert "result" in quick_one[-1]
        assert "its route was changed or removed" in slow_one[-1]["error"]["message"]
        for each in pids:
            await eventually(partial(gone, each), 60)
        here.write(routes={"docs": here.one})
        await here.told("configuration_reloaded", 3)
        assert (await start(client)).status_code == 404
        here.write(routes={"tools": route()})
        await here.told("configuration_reloaded", 4)
        async with client_of(here.rig, here.edge) as later:
            assert (await start(later)).status_code == 200


async def under_way(here: Installation, count: int) -> None:
    async def asked() -> bool:
        calls = [each for each in here.recorded("mcp.request") if each.get("name") == "sleep"]
        return len(calls) == count

    await eventually(asked, 60)
