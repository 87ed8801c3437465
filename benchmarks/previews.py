"""How long a piece of a reply takes from the model to the client that watches the session.

``python -m benchmarks.previews [--pieces N] [--sessions N] [--out FILE]``

The model speaks a piece every 20 ms; the text of each is the time at which it was sent. The client
asks for previews and looks at the clock when it has one. So all that lies between is ours: reading
the provider's stream, making a preview of it, and sending it.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import anyio
from tests.wire.host import Server

from benchmarks.lines import connected
from benchmarks.meter import summary_ms
from benchmarks.models import timed_model
from benchmarks.overhead import bench, make_sessions, message

TARGET_MS = 5.0


async def listen(server: Server, session_id: str) -> list[int]:
    """Ask once; return how long each piece took, the first one first, in nanoseconds."""
    path = f"/v1/sessions/{session_id}/events"
    took: list[int] = []
    async with (
        connected(server.base_url, server.api_key) as door,
        connected(server.base_url, server.api_key) as window,
    ):
        events = window.events(f"{path}/stream?beta=true&event_deltas%5B%5D=agent.message")
        await door.post(f"{path}?beta=true", message("go"))
        async for event in events:
            if event["type"] == "event_delta":
                now_ns = time.monotonic_ns()
                text = event["delta"]["content"]["text"]
                took += [now_ns - int(sent) for sent in text.split()]
            elif event["type"] == "session.status_idle":
                return took
    raise RuntimeError("the stream ended before the turn did")


async def run(pieces: int, sessions: int) -> dict[str, Any]:
    """Measure one session after the other: the first piece of each, and all of them."""
    with timed_model(pieces=pieces) as model_url, bench(model_url) as server:
        (warm, *measured) = await make_sessions(server, sessions + 1)
        await listen(server, warm)
        heard = [await listen(server, session_id) for session_id in measured]
    return {
        "sessions": sessions,
        "pieces": sum(map(len, heard)),
        "first_ms": summary_ms([took[0] for took in heard]),
        "all_ms": summary_ms([each for took in heard for each in took]),
        "target_ms": TARGET_MS,
    }


def main() -> None:
    """Run, print the figures and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pieces", type=int, default=20, help="pieces of each reply")
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    figures = anyio.run(run, options.pieces, options.sessions)
    for name in ("first_ms", "all_ms"):
        print(f"{name:9} p50 {figures[name]['p50']}  p95 {figures[name]['p95']}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
