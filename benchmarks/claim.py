"""How long work waits for a worker that has nothing else to do: ours and the official one.

``python -m benchmarks.claim [--sessions N] [--out FILE]``

One server, two workers, each a process with an environment of its own. Sessions are made one at a
time, for the two in turn and after pauses of random length, so that each meets the workers anywhere
between two polls. The figure is the server's own: from an item's ``created_at`` to its
``acknowledged_at``. No tool is called, so no sandbox is made.
"""

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from anthropic import Anthropic
from tests.wire.host import running
from tests.wire.site import MESSAGE, Site, until

from benchmarks.meter import summary_ms
from benchmarks.tool_roundtrip import OFFICIAL, OURS, Side, worker
from intramuros.kernel.timing import SystemClock

# The official worker waits one to three seconds between two polls.
_PAUSE_S = 3.0
_WAIT_S = 60.0


def claim(side: Side) -> int:
    """Make a session and return how long its work item waited, in nanoseconds."""
    session = side.site.session("greet", initial_events=[MESSAGE])

    def claimed() -> int | None:
        work = side.site.worker.beta.environments.work
        for item in work.list(side.site.environment_id, limit=20).data:
            if item.data.id == session.id and item.acknowledged_at is not None:
                waited = _at(item.acknowledged_at) - _at(item.created_at)
                return int(waited.total_seconds() * 1e9)
        time.sleep(0.1)  # noqa: TID251  a benchmark's own process
        return None

    return until(claimed, _WAIT_S)


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def run(sessions: int) -> dict[str, Any]:
    """Measure both workers on one server."""
    found: dict[str, list[int]] = {OFFICIAL: [], OURS: []}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (scratch / "scripts").mkdir()
        (scratch / "scripts" / "greet.yaml").write_text("steps:\n  - text: Hello.\n")
        server = stack.enter_context(
            running(scratch / "data", model_scripts=str(scratch / "scripts"))
        )
        sides = []
        for name in found:
            api = stack.enter_context(Anthropic(base_url=server.base_url, api_key=server.api_key))
            site = stack.enter_context(Site(server, api))
            (scratch / name).mkdir()
            sides.append(stack.enter_context(worker(name, site, scratch / name)))
        for number in range(sessions + 1):
            for side in sides if number % 2 else reversed(sides):
                time.sleep(random.random() * _PAUSE_S)  # noqa: TID251  where between two polls
                waited = claim(side)
                if number:  # the first one warms up
                    found[side.name].append(waited)
    return {
        name: {"waited_ms": summary_ms(waits), "n": len(waits)} for name, waits in found.items()
    }


def main() -> None:
    """Run, print the figures and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=20, help="for each worker")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    figures = run(options.sessions)
    ours, official = figures[OURS]["waited_ms"], figures[OFFICIAL]["waited_ms"]
    # Both, since a poll under way is answered at once: the official one's waits have two peaks.
    ratios = {name: round(official[name] / ours[name], 1) for name in ("p50", "mean")}
    for name, waits in ((OFFICIAL, official), (OURS, ours)):
        print(f"{name} p50 {waits['p50']}, mean {waits['mean']}, p95 {waits['p95']} ms")
    print(f"times less: p50 {ratios['p50']}, mean {ratios['mean']}")
    report = {
        "benchmark": "claim",
        "date": SystemClock().now().date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load": round(statistics.fmean(os.getloadavg()), 2),
        "results": figures,
        "ratios": ratios,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
