"""A gateway's file changes under a stream of calls: none is lost, none answered twice."""

import os
import signal
from functools import partial
from pathlib import Path

import anyio
import httpx2
import pytest
import yaml

from tests.e2e.tunnel_processes import edge_process, gateway_process
from tests.integration.tunnel.rig import Rig, client_of, eventually, running_upstream, url
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
ROUNDS = 6


async def answers(client: httpx2.AsyncClient, label: str) -> bool:
    return (await client.get(url("/echo", label))).status_code == 200


async def test_routes_change_under_a_stream_of_calls(tmp_path: Path) -> None:
    rig, one, two = Rig(tmp_path), Upstream(), Upstream()
    told: list[object] = []
    done = anyio.Event()

    async def calls(client: httpx2.AsyncClient, name: str) -> None:
        count = 0
        while not done.is_set():
            count += 1
            try:
                answer = await client.post(url("/echo"), content=f"{name} {count}".encode())
                told.append(answer.status_code)
            except httpx2.TransportError as error:
                told.append(error)

    async with running_upstream(one.app) as first, running_upstream(two.app) as second:
        with edge_process(rig, 0) as edge, gateway_process(rig, edge.port, first) as gateway:
            file = rig.home / "gateway-audit.jsonl.yaml"
            config = yaml.safe_load(file.read_text())
            async with client_of(rig, edge.port) as client, anyio.create_task_group() as group:
                await eventually(partial(answers, client, "docs"), 60)
                before = len(one.requests)
                for name in "abcd":
                    group.start_soon(calls, client, name)
                for number in range(ROUNDS):
                    # The port of the route that all call changes each time, and another comes.
                    routes = {f"extra{number}": f"http://127.0.0.1:{first}"}
                    routes["docs"] = f"http://127.0.0.1:{(second, first)[number % 2]}"
                    config["routes"] = routes
                    config["upstream"] = {"allowed_ips": ["127.0.0.1", f"10.0.0.{number + 1}"]}
                    fresh = rig.write("fresh", yaml.safe_dump(config).encode())
                    fresh.replace(file)
                    if number < ROUNDS - 1:
                        os.kill(gateway.pid, signal.SIGHUP)
                    # The last one is found without being told.
                    await eventually(partial(answers, client, f"extra{number}"), 60)
                done.set()
            gateway.terminate()
            assert gateway.wait(60) == 0
    assert told.count(200) == len(told) > 0, set(map(str, told))
    bodies = [body for each in (one, two) for method, _, body in each.requests if method == "POST"]
    assert len(bodies) == len(set(bodies)) == len(told)
    assert len(one.requests) > before
    assert two.requests
    records = rig.audit("gateway-audit.jsonl")
    kinds = [record["kind"] for record in records]
    assert kinds.count("gateway.reloaded") == ROUNDS
    assert kinds.count("mcp.request") == kinds.count("mcp.response")
