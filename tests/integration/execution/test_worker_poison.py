"""A control plane that sends ids which are no ids: its own work suffers, and nothing else."""

import json

import anyio
import pytest
from starlette.responses import Response

from tests.fakes.control_plane import ENVIRONMENT
from tests.fakes.worker import Rig

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

ODD = ["\ud800", "../../../tmp/x", "a/b", "a\0b", "a\nb", "x" * 300, "é", ""]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", ["session", "work"])
async def test_an_odd_work_item_ends_nothing(rig: Rig, odd: str, place: str) -> None:
    item = {
        "id": odd if place == "work" else "work_odd",
        "type": "work",
        "environment_id": ENVIRONMENT,
        "data": {"type": "session", "id": odd if place == "session" else "sesn_odd"},
        "state": "queued",
        "metadata": {},
        "created_at": "2026-01-01T00:00:00Z",
    }
    rig.plane.answer("poll", Response(json.dumps(item), media_type="application/json"))
    good, session = rig.plane.offer(), rig.plane.session()
    call = session.tool_use("bash", {"command": "true"})
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        with anyio.fail_after(60):
            await good.stopped.wait()
    assert session.result_of(call)
    assert [sandbox_id for _, sandbox_id in rig.provider.created] == ["sesn_1"]


@pytest.mark.parametrize("odd", [*ODD[1:-2], "\u202e"])
async def test_a_call_with_an_odd_id_is_left_alone(rig: Rig, odd: str) -> None:
    item, session = rig.plane.offer(), rig.plane.session()
    session.emit(
        "agent.tool_use", name="bash", input={"command": "a"}, evaluated_permission="allow"
    )
    session.events[-1]["id"] = odd
    call = session.tool_use("bash", {"command": "b"})
    session.on_result = lambda _: session.idle()
    async with rig.worker():
        with anyio.fail_after(60):
            await item.stopped.wait()
    assert session.result_of(call)
    ran = [arguments["command"] for _, _, arguments in rig.provider.calls]
    assert ran == ["b"]
