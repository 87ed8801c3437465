"""What the control plane adds to a tool call.

``python -m benchmarks.overhead [--calls N] [--out FILE]``

A client (official SDK) answers a custom tool as soon as it sees the call; the model is a Messages
server in a process of its own that answers at once. So all the time between the client's
``user.custom_tool_result`` and the next request at the model is ours: HTTP, the transaction that
makes the result durable, claiming the turn, the loop, building the request. The server is the real
one, over HTTP, on SQLite with ``synchronous=FULL``. Client, server and model share the machine.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2
from anthropic import AsyncAnthropic
from anthropic.types.beta.sessions import BetaManagedAgentsSessionStatusIdleEvent
from tests.wire.host import ROOT, Server, running

from benchmarks.meter import MIB, spent, summary_ms
from intramuros.kernel.config import environment
from intramuros.kernel.timing import SystemClock

TOOL: Final = {
    "type": "custom",
    "name": "probe",
    "description": "Answers at once.",
    "input_schema": {"type": "object", "properties": {}},
}


_HEAD = ("sessions", "calls/s", "result→model p50/p95", "round trip p50/p95", "CPU/call", "RSS")


@contextmanager
def instant_model(calls: int) -> Iterator[str]:
    """Run the model's process; yields its base URL."""
    command = [sys.executable, "-m", "tests.fakes.messages_server"]
    command += ["--tool", "probe", "--times", str(calls)]
    env = {**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("ready ").strip()
        finally:
            process.terminate()


class Bench:
    """One client of one server."""

    def __init__(self, client: AsyncAnthropic) -> None:
        self._client = client
        self.sent_ns: list[int] = []
        self.round_trips_ns: list[int] = []

    async def session(self) -> str:
        """Make a session whose agent has the one tool."""
        client = self._client
        agent = await client.beta.agents.create(
            name="bench",
            model="instant",
            tools=[TOOL],
        )
        place = await client.beta.environments.create(
            name=f"bench-{time.monotonic_ns()}", config={"type": "self_hosted"}
        )
        session = await client.beta.sessions.create(agent=agent.id, environment_id=place.id)
        return session.id

    async def drive(self, session_id: str) -> int:
        """Ask once and answer every call until the turn ends; returns the number of calls."""
        client, answered = self._client, 0
        async with await client.beta.sessions.events.stream(session_id) as stream:
            await self._send(
                session_id,
                {"type": "user.message", "content": [{"type": "text", "text": "go"}]},
            )
            last_ns: int | None = None
            async for event in stream:
                if event.type == "agent.custom_tool_use":
                    now_ns = time.monotonic_ns()
                    if last_ns is not None:
                        self.round_trips_ns.append(now_ns - last_ns)
                    last_ns = time.monotonic_ns()
                    self.sent_ns.append(last_ns)
                    answer = {
                        "type": "user.custom_tool_result",
                        "custom_tool_use_id": event.id,
                        "content": [{"type": "text", "text": "ok"}],
                    }
                    await self._send(session_id, answer)
                    answered += 1
                elif event.type == "session.status_idle" and _ended(event):
                    return answered
        raise RuntimeError("the stream ended before the turn did")

    async def _send(self, session_id: str, event: dict[str, Any]) -> None:
        await self._client.beta.sessions.events.send(
            session_id,
            events=[event],
        )


def _ended(event: BetaManagedAgentsSessionStatusIdleEvent) -> bool:
    return event.stop_reason.type != "requires_action"


async def measure(server: Server, model_url: str, concurrency: int) -> dict[str, Any]:
    """Drive so many sessions at once, one turn each, and return the figures."""
    async with AsyncAnthropic(
        base_url=server.base_url, api_key=server.api_key, max_retries=0
    ) as client:
        await Bench(client).drive(await Bench(client).session())  # warm up
        bench = Bench(client)
        sessions = [await bench.session() for _ in range(concurrency)]
        seen = len(await arrivals(model_url))
        before, began = spent(server.process.pid), time.monotonic()
        async with anyio.create_task_group() as group:
            for session_id in sessions:
                group.start_soon(bench.drive, session_id)
        took_s, after = time.monotonic() - began, spent(server.process.pid)
    calls, requests = len(bench.sent_ns), await arrivals(model_url)
    figures: dict[str, Any] = {
        "concurrency": concurrency,
        "calls": calls,
        "calls_per_s": round(calls / took_s, 1),
        "round_trip_ms": summary_ms(bench.round_trips_ns),
        "server_cpu_ms_per_call": round((after.cpu_s - before.cpu_s) * 1000 / calls, 2),
        "server_rss_mib": round(after.rss_bytes / MIB, 1),
    }
    if concurrency == 1:
        # One session: the request behind each result is the next one at the model.
        reached = requests[seen + 1 :]
        waits = [at - sent for sent, at in zip(bench.sent_ns, reached, strict=True)]
        figures["result_to_model_ms"] = summary_ms(waits)
    return figures


async def arrivals(model_url: str) -> list[int]:
    """Return when requests reached the model, in nanoseconds of the machine's clock."""
    async with httpx2.AsyncClient() as client:
        found: list[int] = (await client.get(f"{model_url}/_requests")).json()["arrivals_ns"]
        return found


async def run(calls: int, concurrencies: list[int]) -> list[dict[str, Any]]:
    """Measure each concurrency on a fresh server and model."""
    results = []
    for concurrency in concurrencies:
        with (
            tempfile.TemporaryDirectory() as scratch,
            instant_model(calls) as model_url,
            running(Path(scratch, "data"), model_base_url=model_url) as server,
        ):
            results.append(await measure(server, model_url, concurrency))
    return results


def table(results: list[dict[str, Any]]) -> str:
    """Return the figures for people."""
    rows = [
        ("sessions", "calls/s", "result→model p50/p95", "round trip p50/p95", "CPU/call", "RSS")
    ]
    for row in results:
        reach, trip = row.get("result_to_model_ms"), row["round_trip_ms"]
        rows.append(
            (
                str(row["concurrency"]),
                str(row["calls_per_s"]),
                f"{reach['p50']} / {reach['p95']} ms" if reach else "",
                f"{trip['p50']} / {trip['p95']} ms",
                f"{row['server_cpu_ms_per_call']} ms",
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
    parser.add_argument("--calls", type=int, default=200, help="tool calls of each session's turn")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 20])
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    results = anyio.run(run, options.calls, options.concurrency)
    print(table(results))
    report = {
        "benchmark": "overhead",
        "date": SystemClock().now().date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "results": results,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
