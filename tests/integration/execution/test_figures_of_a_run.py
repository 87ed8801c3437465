"""What ``/metrics`` says after real work, over HTTP, and what it never says."""

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from intramuros.execution.figures import PREFIX, Figures
from intramuros.execution.sandbox.base import ToolOutcome
from tests.fakes.control_plane import KEY, ControlPlane, running
from tests.fakes.sandbox import FakeProvider
from tests.fakes.worker import Rig, stopped

pytestmark = pytest.mark.anyio

SECRET = "AKIAIOSFODNN7EXAMPLE"


async def test_a_run_shows_in_the_figures_and_nothing_of_it_does(tmp_path: Path) -> None:
    async with running(ControlPlane()) as plane:
        rig = Rig(plane, FakeProvider(), tmp_path)
        item, session = plane.offer(), plane.session()
        session.emit("session.status_running")

        async def answer(tool: str, arguments: Mapping[str, Any]) -> ToolOutcome:
            text = f"{arguments} {KEY}" if tool == "bash" else "no such file"
            return ToolOutcome.text(text, is_error=tool != "bash")

        rig.provider.handler = answer
        session.tool_use("bash", {"command": f"echo {SECRET}"})
        session.tool_use("read", {"file_path": "/nowhere"})
        session.on_result = lambda _: session.idle() if len(session.results) == 2 else None
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        async with rig.worker(metrics_listen=address):
            await stopped(item)
            async with httpx2.AsyncClient(trust_env=False) as client:
                text = (await client.get(f"http://{address}/metrics")).text
    figures = dict(re.findall(r"^(intramuros_worker_\S+) (\S+)$", text, re.MULTILINE))
    for name, count in {
        'tool_results_total{outcome="ok",tool="bash"}': 1,
        'tool_results_total{outcome="error",tool="read"}': 1,
        'tool_seconds_count{outcome="ok",tool="bash"}': 1,
        'polls_total{outcome="work"}': 1,
        'outflow_checked_total{decision="mask"}': 1,
        'outflow_checked_total{decision="pass"}': 1,
        "queue_age_seconds_count": 1,
        "claim_seconds_count": 1,
        "claims_total": 1,
    }.items():
        assert float(figures[f"intramuros_worker_{name}"]) == count, name
    assert float(figures['intramuros_worker_heartbeats_total{outcome="sent"}']) >= 1
    assert float(figures["intramuros_worker_outflow_masked_total"]) >= 1
    assert float(figures['intramuros_worker_records_total{outcome="written"}']) >= 5
    for secret in (SECRET, KEY, "sesn_", "work_", "env_", "nowhere", str(tmp_path)):
        assert secret not in text


def test_every_figure_is_explained() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "watch.md").read_text()
    names = {family.name for family in Figures().registry.collect()}
    assert len(names) > 10
    for name in names:
        assert name.removeprefix(PREFIX) in page, name
