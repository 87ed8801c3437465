"""Where the control plane saturates: what each thing that many do at once costs the server.

``python -m benchmarks.load [--sessions N] [--pollers N…] [--subscribers N…] [--out FILE]``

* create: sessions made, by so many clients at once;
* pollers: workers that hold a poll open and find nothing, and how soon one of them has new work;
* streams: clients that watch one session while it runs a turn.

The figure to go by is the processor time of the server for one operation, which others who use the
machine change little; rates and delays they do. Client and server share the machine. What a turn
costs is measured by the benchmark ``overhead``.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx2
from anthropic import AsyncAnthropic
from tests.wire.host import Server

from benchmarks.lines import Line, connected
from benchmarks.meter import MIB, spent, summary_ms
from benchmarks.models import timed_model
from benchmarks.overhead import TOOL, bench, message

AT_ONCE = (1, 8, 32)
WATCH_S = 5.0
LONG_MS = 15_000


async def made(server: Server) -> tuple[str, str, str]:
    """Return an agent, an environment, and a key of its workers."""
    async with AsyncAnthropic(base_url=server.base_url, api_key=server.api_key) as client:
        tools: Any = [TOOL]
        agent = await client.beta.agents.create(name="load", model="instant", tools=tools)
        place = await client.beta.environments.create(name="load", config={"type": "self_hosted"})
    async with httpx2.AsyncClient(headers={"x-api-key": server.api_key}) as http:
        url = f"{server.base_url}/x/environments/{place.id}/keys"
        answer = await http.post(url, json={"name": "load"})
    return agent.id, place.id, answer.json()["key"]


async def create(server: Server, sessions: int, at_once: int) -> dict[str, Any]:
    """Make sessions by so many clients at once."""
    agent_id, environment_id, _ = await made(server)
    body = json.dumps({"agent": agent_id, "environment_id": environment_id}).encode()
    took: list[int] = []

    async def one(count: int) -> None:
        async with connected(server.base_url, server.api_key) as line:
            for _ in range(count):
                began_ns = time.monotonic_ns()
                await line.post("/v1/sessions?beta=true", body)
                took.append(time.monotonic_ns() - began_ns)

    before, began = spent(server.process.pid), time.monotonic()
    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(one, sessions // at_once)
    wall_s, after = time.monotonic() - began, spent(server.process.pid)
    return {
        "clients": at_once,
        "per_s": round(len(took) / wall_s, 1),
        "ms": summary_ms(took),
        "cpu_ms_each": round((after.cpu_s - before.cpu_s) * 1000 / len(took), 2),
    }


async def pollers(server: Server, count: int, wait_ms: int = 0) -> dict[str, Any]:
    """Hold so many polls open, and see what that costs, and who gets new work how soon."""
    agent_id, environment_id, key = await made(server)
    # As the official worker polls; ours holds a poll open for 15 s (wait_ms).
    held = f"wait_ms={wait_ms}" if wait_ms else "block_ms=999"
    path = f"/v1/environments/{environment_id}/work/poll?{held}&beta=true"
    found: list[int] = []

    async def one(headers: dict[str, str]) -> None:
        nonlocal handed
        async with connected(server.base_url, key, **headers) as line:
            while True:
                if await line.get(path) is not None:
                    found.append(time.monotonic_ns())
                    handed.set()

    handed = anyio.Event()
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one, {"authorization": f"Bearer {key}"})
        await anyio.sleep(WATCH_S)
        before, began = spent(server.process.pid), time.monotonic()
        await anyio.sleep(WATCH_S)
        wall_s, after = time.monotonic() - began, spent(server.process.pid)
        body = json.dumps({"agent": agent_id, "environment_id": environment_id}).encode()
        reached = []
        async with connected(server.base_url, server.api_key) as door:
            for _ in range(20):
                found.clear()
                handed = anyio.Event()
                began_ns = time.monotonic_ns()
                await door.post("/v1/sessions?beta=true", body)
                with anyio.move_on_after(5):
                    await handed.wait()
                    reached.append(found[0] - began_ns)
        group.cancel_scope.cancel()
    return {
        "pollers": count,
        "cores_at_rest": round((after.cpu_s - before.cpu_s) / wall_s, 3),
        "cpu_ms_each_per_s": round((after.cpu_s - before.cpu_s) * 1000 / wall_s / count, 3),
        "handed_out": len(reached),
        "created_to_claimed_ms": summary_ms(reached),
        "server_rss_mib": round(after.rss_bytes / MIB, 1),
    }


async def streams(server: Server, count: int) -> dict[str, Any]:
    """Have so many clients watch a session while it runs a turn."""
    agent_id, environment_id, _ = await made(server)
    async with AsyncAnthropic(base_url=server.base_url, api_key=server.api_key) as client:
        session = await client.beta.sessions.create(agent=agent_id, environment_id=environment_id)
    path = f"/v1/sessions/{session.id}/events"
    seen: list[int] = []
    ends: list[int] = []

    async def one(line: Line) -> None:
        async for event in line.events(f"{path}/stream?beta=true"):
            seen.append(1)
            if event["type"] == "session.status_idle":
                ends.append(time.monotonic_ns())
                return

    async def watch(opened: anyio.Semaphore) -> None:
        async with connected(server.base_url, server.api_key) as line:
            opened.release()
            await one(line)

    opened = anyio.Semaphore(0)
    async with connected(server.base_url, server.api_key) as door:
        rested = spent(server.process.pid)
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(watch, opened)
            for _ in range(count):
                await opened.acquire()
            await anyio.sleep(WATCH_S)
            before, began_ns = spent(server.process.pid), time.monotonic_ns()
            await door.post(f"{path}?beta=true", message("go"))
        after = spent(server.process.pid)
    return {
        "subscribers": count,
        "events": len(seen),
        "reached_all": len(ends) == count,
        "first_and_last_end_ms": [round((at - began_ns) / 1e6, 1) for at in (ends[0], ends[-1])],
        "cpu_us_each_event": round((after.cpu_s - before.cpu_s) * 1e6 / len(seen), 1),
        "kib_each_subscriber": round((before.rss_bytes - rested.rss_bytes) / 1024 / count, 1),
    }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure each profile at each size, on a fresh server each."""
    figures: dict[str, Any] = {"load": os.getloadavg()[0]}
    with timed_model(times=0) as model_url:
        for name, profile, sizes in _profiles(options):
            figures[name] = []
            for size in sizes:
                with bench(model_url, options.database_url) as server:
                    figures[name].append(await profile(server, size))
                print(name, figures[name][-1], flush=True)
    return figures


def _profiles(options: argparse.Namespace) -> list[tuple[str, Any, Sequence[int]]]:
    async def creating(server: Server, at_once: int) -> dict[str, Any]:
        return await create(server, options.sessions, at_once)

    async def long(server: Server, count: int) -> dict[str, Any]:
        return await pollers(server, count, LONG_MS)

    return [
        ("create", creating, AT_ONCE),
        ("pollers", pollers, options.pollers),
        ("pollers_long", long, options.pollers),
        ("streams", streams, options.subscribers),
    ]


def main() -> None:
    """Run, print the figures and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=640, help="sessions made at each size")
    parser.add_argument("--pollers", type=int, nargs="*", default=[100, 300, 1000])
    parser.add_argument("--subscribers", type=int, nargs="*", default=[100, 1000, 5000])
    parser.add_argument("--database-url", help="another database than SQLite in a fresh directory")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    figures = anyio.run(run, options)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
