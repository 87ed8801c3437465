"""What a sandbox costs: tool calls by our worker and by the official, unsandboxed one.

``python -m benchmarks.tool_roundtrip [--calls N] [--rounds N] [--out FILE]``

One server (the real one, SQLite with ``synchronous=FULL``, the scripted model), two workers, each a
process with an environment of its own: ours with bubblewrap sandboxes, audit file, journal and
outflow filter; and the SDK's ``EnvironmentWorker``, which runs the tools in its own process. The
two take turns, session by session, so that load from elsewhere hits both alike; ratios are what
counts. A round trip is what the log says: from the call's ``processed_at`` to its result's.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import yaml
from anthropic import Anthropic
from tests.wire.host import ROOT, Server, running
from tests.wire.site import MESSAGE, Site, until

from benchmarks.meter import spent, summary_ms
from intramuros.kernel.config import clean_environment
from intramuros.kernel.timing import SystemClock

OURS, OFFICIAL = "intramuros", "official"
# Each job is one kind of call, made many times in one session.
JOBS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "bash": ("bash", {"command": "true"}),
    "read": ("read", {"file_path": "note.txt"}),
    "write": ("write", {"file_path": "note.txt", "content": "x" * 1000}),
}
_WAIT_S = 120.0


@dataclass
class Side:
    """One worker: its process, its environment, and what was measured."""

    name: str
    process: subprocess.Popen[str]
    site: Site
    round_trips_ns: dict[str, list[int]] = field(default_factory=dict)
    first_ns: list[int] = field(default_factory=list)
    """From the creation of a session to its first result: claim and sandbox included."""
    cpu_s: float = 0.0
    calls: int = 0


def write_scripts(folder: Path, calls: int) -> None:
    """Write one script for each job: a file is made first, then the same call again and again."""
    for name, (tool, arguments) in JOBS.items():
        make = {"name": "write", "input": {"file_path": "note.txt", "content": "a note\n"}}
        steps: list[dict[str, Any]] = [{"id": "make", "tools": [make]}]
        steps += [
            {"id": f"s{number}", "tools": [{"name": tool, "input": arguments}]}
            for number in range(calls)
        ]
        steps.append({"text": "Done."})
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"steps": steps}))


@contextmanager
def worker(name: str, site: Site, folder: Path) -> Iterator[Side]:
    """Run a worker for a site's environment."""
    key = folder / "key"
    key.write_text(site.key)
    key.chmod(0o600)
    (folder / "files").mkdir()
    if name == OURS:
        command = ["intramuros.cli.main", "worker", "--base-url", site.server.base_url]
        command += ["--environment-id", site.environment_id, "--environment-key-file", str(key)]
        command += ["--state-dir", str(folder / "state"), "--max-idle-s", "0.5"]
    else:
        command = ["benchmarks.official_worker", site.server.base_url, site.environment_id]
        command += [str(key), str(folder / "files")]
    env = {**clean_environment(), "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            if not process.stdout.readline().startswith("ready"):
                raise RuntimeError(f"{name} did not start: {(folder / 'log').read_text()}")
            yield Side(name, process, site)
        finally:
            process.terminate()


def play(side: Side, job: str) -> None:
    """Run one session to its end and add what its log says."""
    before = spent(side.process.pid).cpu_s
    session = side.site.session(job, initial_events=[MESSAGE])

    def ended() -> bool | None:
        # Asked rarely, and through a small answer, to leave the machine to what is measured.
        newest = side.site.api.beta.sessions.events.list(session.id, order="desc", limit=1).data
        reason = getattr(newest[0], "stop_reason", None) if newest else None
        if reason is not None and reason.type == "end_turn":
            return True
        time.sleep(0.1)  # noqa: TID251  a benchmark's own process
        return None

    until(ended, _WAIT_S)
    log = side.site.events(session.id)
    sent = {event.id: event.processed_at for event in log if event.type == "agent.tool_use"}
    results = [event for event in log if event.type == "user.tool_result"]
    failed = [event for event in results if event.is_error]
    if failed or len(results) != len(sent):
        raise RuntimeError(f"{side.name} failed at {job}: {failed[:1] or 'a result is missing'}")
    waits = [_ns(event.processed_at - sent[event.tool_use_id]) for event in results]
    side.first_ns.append(_ns(results[0].processed_at - session.created_at))
    side.round_trips_ns.setdefault(job, []).extend(waits[1:])
    side.cpu_s += spent(side.process.pid).cpu_s - before
    side.calls += len(waits)


def _ns(delta: timedelta) -> int:
    return int(delta.total_seconds() * 1e9)


def run(calls: int, rounds: int) -> dict[str, Any]:
    """Measure both workers on one server."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (scratch / "scripts").mkdir()
        write_scripts(scratch / "scripts", calls)
        server: Server = stack.enter_context(
            running(scratch / "data", model_scripts=str(scratch / "scripts"))
        )
        sides = []
        for name in (OFFICIAL, OURS):
            api = stack.enter_context(Anthropic(base_url=server.base_url, api_key=server.api_key))
            site = stack.enter_context(Site(server, api))
            (scratch / name).mkdir()
            sides.append(stack.enter_context(worker(name, site, scratch / name)))
        for number in range(rounds + 1):
            for job in JOBS:
                for side in sides if number % 2 else reversed(sides):
                    play(side, job)
            if number == 0:
                # The first round warms up caches on every side.
                for side in sides:
                    side.round_trips_ns.clear()
                    side.first_ns.clear()
                    side.cpu_s, side.calls = 0.0, 0
        return {side.name: _figures(side) for side in sides}


def _figures(side: Side) -> dict[str, Any]:
    return {
        "round_trip_ms": {job: summary_ms(ns) for job, ns in side.round_trips_ns.items()},
        "first_result_ms": summary_ms(side.first_ns),
        "worker_cpu_ms_per_call": round(side.cpu_s * 1000 / side.calls, 2),
        "calls": side.calls,
    }


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """Return ours over the official one's, medians."""
    ours, official = figures[OURS], figures[OFFICIAL]
    found = {
        job: ours["round_trip_ms"][job]["p50"] / official["round_trip_ms"][job]["p50"]
        for job in JOBS
    }
    found["first result"] = ours["first_result_ms"]["p50"] / official["first_result_ms"]["p50"]
    found["worker CPU"] = ours["worker_cpu_ms_per_call"] / official["worker_cpu_ms_per_call"]
    return {name: round(value, 2) for name, value in found.items()}


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    ours, official, ratio = figures[OURS], figures[OFFICIAL], ratios(figures)
    rows = [("round trip, p50 / p95", "official, no sandbox", "intramuros, sandboxed", "ratio")]
    rows += [(job, _both(official, job), _both(ours, job), f"{ratio[job]:.2f}") for job in JOBS]
    firsts = [side["first_result_ms"] for side in (official, ours)]
    first = [f"{figure['p50']} / {figure['p95']} ms" for figure in firsts]
    rows.append(("session to first result", first[0], first[1], f"{ratio['first result']:.2f}"))
    cpu = [f"{side['worker_cpu_ms_per_call']} ms" for side in (official, ours)]
    rows.append(("worker CPU per call", cpu[0], cpu[1], f"{ratio['worker CPU']:.2f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(_line(row, widths) for row in rows)


def _both(side: dict[str, Any], job: str) -> str:
    figure = side["round_trip_ms"][job]
    return f"{figure['p50']} / {figure['p95']} ms"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def main() -> None:
    """Run, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=40, help="calls of one kind in a session")
    parser.add_argument("--rounds", type=int, default=5, help="sessions of each kind and worker")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    figures = run(options.calls, options.rounds)
    print(table(figures))
    report = {
        "benchmark": "tool_roundtrip",
        "date": SystemClock().now().date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load": round(statistics.fmean(os.getloadavg()), 2),
        "results": figures,
        "ratios": ratios(figures),
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
