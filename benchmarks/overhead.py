"""What the control plane adds between a tool's result and the next request to the model.

``python -m benchmarks.overhead [--calls N] [--concurrency N…] [--engine NAME…] [--out FILE]``

A client answers a custom tool as soon as it sees the call. The text of each answer is the time at
which its first byte was sent; the model, a Messages server in a process of its own, takes the time
again when the request that holds it arrives. What lies between is ours: HTTP, the transaction that
makes the result durable, claiming the turn, the loop, building and sending the request. The server
is the real one, over HTTP, and each commit waits for the disk: SQLite runs with
``synchronous=FULL``, PostgreSQL, which is started for this, with ``fsync=on``. Client, server,
model and database share the machine.

Paced, the model thinks for a second on average, as the fastest real ones do. Flat out, it answers
at once, so that everything waits for the processor: that shows how many calls there can be.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
from anthropic import AsyncAnthropic
from tests import postgres
from tests.wire.host import Server, running

from benchmarks.lines import connected
from benchmarks.meter import MIB, spent, summary_ms
from benchmarks.models import timed_model, waits
from intramuros.kernel.timing import SystemClock

TOOL: Final = {
    "type": "custom",
    "name": "probe",
    "description": "Answers at once.",
    "input_schema": {"type": "object", "properties": {}},
}
# Seconds; each request takes between half of it and one and a half.
THINK_S: Final = 1.0
# What is asked of us: p50 and p95 at 50 sessions, in milliseconds.
TARGET_MS: Final = (5.0, 20.0)
SQLITE, POSTGRES = "sqlite", "postgres"
DURABLE: Final = {"fsync": "on", "full_page_writes": "on"}


@contextmanager
def bench(model_url: str, database_url: str | None = None, **more: object) -> Iterator[Server]:
    """Run a server for a benchmark, on a fresh data directory."""
    settings = more if database_url is None else {**more, "database_url": database_url}
    with (
        tempfile.TemporaryDirectory() as scratch,
        running(
            Path(scratch, "data"), model_base_url=model_url, log_level="warning", **settings
        ) as server,
    ):
        yield server


async def make_sessions(server: Server, count: int) -> list[str]:
    """Make sessions of one agent, which has the one tool."""
    async with AsyncAnthropic(
        base_url=server.base_url, api_key=server.api_key, max_retries=0
    ) as client:
        tools: Any = [TOOL]
        agent = await client.beta.agents.create(name="bench", model="instant", tools=tools)
        place = await client.beta.environments.create(
            name=f"bench-{time.monotonic_ns()}", config={"type": "self_hosted"}
        )
        sessions = [
            await client.beta.sessions.create(agent=agent.id, environment_id=place.id)
            for _ in range(count)
        ]
        return [session.id for session in sessions]


def message(text: str) -> bytes:
    """Return the body that sends a message."""
    content = [{"type": "text", "text": text}]
    return json.dumps({"events": [{"type": "user.message", "content": content}]}).encode()


async def drive(server: Server, session_id: str) -> list[int]:
    """Ask once and answer every call until the turn ends.

    Returns:
        The time from each answer to the next call, in nanoseconds.
    """
    path = f"/v1/sessions/{session_id}/events"
    trips: list[int] = []
    sent_ns: int | None = None
    async with (
        connected(server.base_url, server.api_key) as door,
        connected(server.base_url, server.api_key) as window,
    ):
        events = window.events(f"{path}/stream?beta=true")
        await door.post(f"{path}?beta=true", message("go"))
        async for event in events:
            if event["type"] == "agent.custom_tool_use":
                now_ns = time.monotonic_ns()
                if sent_ns is not None:
                    trips.append(now_ns - sent_ns)
                sent_ns = time.monotonic_ns()
                await door.post(f"{path}?beta=true", _answer(event["id"], sent_ns))
            elif _ends(event):
                return trips
    raise RuntimeError("the stream ended before the turn did")


def _ends(event: dict[str, Any]) -> bool:
    idle = event["type"] == "session.status_idle"
    return idle and event["stop_reason"]["type"] != "requires_action"


def _answer(use_id: str, sent_ns: int) -> bytes:
    answer = {
        "type": "user.custom_tool_result",
        "custom_tool_use_id": use_id,
        "content": [{"type": "text", "text": str(sent_ns)}],
    }
    return json.dumps({"events": [answer]}).encode()


async def measure(server: Server, model_url: str, concurrency: int) -> dict[str, Any]:
    """Drive so many sessions at once, one turn each, and return the figures."""
    (first,) = await make_sessions(server, 1)
    await drive(server, first)  # warm up
    await waits(model_url)
    sessions = await make_sessions(server, concurrency)
    trips: list[int] = []

    async def one(session_id: str) -> None:
        trips.extend(await drive(server, session_id))

    before, began = spent(server.process.pid), time.monotonic()
    async with anyio.create_task_group() as group:
        for session_id in sessions:
            group.start_soon(one, session_id)
    took_s, after = time.monotonic() - began, spent(server.process.pid)
    reached = await waits(model_url)
    return {
        "concurrency": concurrency,
        "calls": len(reached),
        "calls_per_s": round(len(reached) / took_s, 1),
        "result_to_model_ms": summary_ms(reached),
        "round_trip_ms": summary_ms(trips),
        "server_cpu_ms_per_call": round((after.cpu_s - before.cpu_s) * 1000 / len(reached), 2),
        "server_cores": round((after.cpu_s - before.cpu_s) / took_s, 2),
        "server_rss_mib": round(after.rss_bytes / MIB, 1),
    }


async def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure each concurrency on a fresh database, server and model, paced and flat out."""
    results = []
    with ExitStack() as stack:
        cluster = None
        if POSTGRES in options.engine:
            cluster = stack.enter_context(postgres.running(DURABLE))
        for engine in options.engine:
            for think_s in (THINK_S, 0.0):
                for concurrency in options.concurrency:
                    url = None
                    if engine == POSTGRES and cluster is not None:
                        url = cluster.database(f"{think_s} {concurrency}")
                    calls = options.calls if concurrency > 1 or not think_s else options.calls // 2
                    with (
                        timed_model(times=calls, think_s=think_s) as model_url,
                        bench(model_url, url) as server,
                    ):
                        figures = await measure(server, model_url, concurrency)
                    results.append({"engine": engine, "think_s": think_s, **figures})
    return results


def table(results: list[dict[str, Any]]) -> str:
    """Return the figures for people."""
    heads = ("sessions", "think", "calls/s", "result→model p50/p95", "CPU/call", "cores", "RSS")
    rows = [("engine", *heads)]
    for row in results:
        reach = row["result_to_model_ms"]
        rows.append(
            (
                row["engine"],
                str(row["concurrency"]),
                f"{row['think_s']:g} s",
                str(row["calls_per_s"]),
                f"{reach['p50']} / {reach['p95']} ms",
                f"{row['server_cpu_ms_per_call']} ms",
                str(row["server_cores"]),
                f"{row['server_rss_mib']} MiB",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def main() -> None:
    """Run, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=40, help="tool calls of each session's turn")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 50])
    parser.add_argument(
        "--engine", nargs="*", choices=[SQLITE, POSTGRES], default=[SQLITE, POSTGRES]
    )
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    if POSTGRES in options.engine and postgres.binaries() is None:
        print("NO POSTGRESQL: only SQLite is measured; install postgresql", file=sys.stderr)
        options.engine = [SQLITE]
    results = anyio.run(run, options)
    print(table(results))
    report = {
        "benchmark": "overhead",
        "date": SystemClock().now().date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "target_ms": TARGET_MS,
        "results": results,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
