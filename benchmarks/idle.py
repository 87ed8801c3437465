"""What sessions cost that wait for somebody.

``python -m benchmarks.idle [--sessions N] [--out FILE]``

Each session is made, is spoken to and answers once, and then rests. The server's memory is looked
at before and after, once it has come to rest; its tasks are counted by the server itself, which the
benchmark starts with one signal handler more (``tests/fakes/counting_server.py``).
"""

import argparse
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
from tests.wire.host import Server, running

from benchmarks.lines import connected
from benchmarks.meter import MIB, spent
from benchmarks.models import timed_model
from benchmarks.overhead import make_sessions, message

# Sessions before the first look, so that what every server needs is there.
WARM_UP = 300
AT_ONCE = 16
TARGET_MIB = 50.0


async def rest(server: Server, sessions: list[str]) -> None:
    """Speak to sessions and wait until each has answered."""
    left = list(sessions)

    async def some() -> None:
        async with connected(server.base_url, server.api_key) as door:
            while left:
                path = f"/v1/sessions/{left.pop()}"
                await door.post(f"{path}/events?beta=true", message("go"))
                resting = False
                while not resting:
                    await anyio.sleep(0.01)
                    resting = (await door.get(f"{path}?beta=true"))["status"] == "idle"

    async with anyio.create_task_group() as group:
        for _ in range(AT_ONCE):
            group.start_soon(some)


async def tasks(server: Server) -> int:
    """Return how many tasks the server has."""
    file = server.data_dir / "tasks"
    file.unlink(missing_ok=True)
    os.kill(server.process.pid, signal.SIGUSR1)
    with anyio.fail_after(10):
        while not file.exists():  # noqa: ASYNC110  another process writes it
            await anyio.sleep(0.05)
    return int(file.read_text())


async def look(server: Server) -> dict[str, float]:
    """Return the server's memory and tasks, once it has come to rest."""
    await anyio.sleep(5)
    size = spent(server.process.pid).rss_bytes / MIB
    return {"rss_mib": round(size, 1), "tasks": await tasks(server)}


async def measure(server: Server, count: int) -> dict[str, Any]:
    """Let so many sessions rest, and say what they added."""
    await rest(server, await make_sessions(server, WARM_UP))
    before, began = await look(server), time.monotonic()
    await rest(server, await make_sessions(server, count))
    after = await look(server)
    return {
        "sessions": count,
        "before": before,
        "after": after,
        "added_mib": round(after["rss_mib"] - before["rss_mib"], 1),
        "added_tasks": after["tasks"] - before["tasks"],
        "took_s": round(time.monotonic() - began, 1),
        "target_mib": TARGET_MIB,
    }


def main() -> None:
    """Run, print the figures and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    with (
        timed_model() as model_url,
        tempfile.TemporaryDirectory() as scratch,
        running(
            Path(scratch, "data"),
            module="tests.fakes.counting_server",
            model_base_url=model_url,
            log_level="warning",
        ) as server,
    ):
        figures = anyio.run(measure, server, options.sessions)
    print(f"{figures['sessions']} idle sessions add {figures['added_mib']} MiB ", end="")
    print(f"and {figures['added_tasks']} tasks")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
