"""Every benchmark, one after the other, each in a process of its own.

``python -m benchmarks [--save] [NAME [OPTION…]]``: with a name only that one, with its options.
``--save`` keeps the figures, dated, in ``benchmarks/results``.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from intramuros.kernel.timing import SystemClock, rfc3339

FOLDER = Path(__file__).parent
# (a) the control plane, (b) a tool through the worker, (c) an MCP call through the tunnel, (d) the
# API's calls, (e) what a sandbox asks of a host, (f) a sandbox that is made and one that waited,
# (g) sandboxes of each provider, (h) the filters of what leaves, (i) the
# pieces of a reply on their way to a client, (j) sessions that rest,
# (k) a sandbox that is put away, and woken, (l) what
# sandboxes weigh, and searches in them, (m) what many
# clients, workers and watchers at once cost, (n) how long
# work waits for a worker.
NAMES = (
    "overhead",
    "tool_roundtrip",
    "tunnel",
    "api",
    "egress",
    "pool",
    "providers",
    "outflow",
    "previews",
    "idle",
    "hibernation",
    "sandbox",
    "load",
    "claim",
)


def main() -> int:
    """Run what was asked for and return the first status that is not 0."""
    arguments = sys.argv[1:]
    save = "--save" in arguments
    if save:
        arguments.remove("--save")
    chosen, options = arguments[:1] or list(NAMES), arguments[1:]
    if unknown := [name for name in chosen if name not in NAMES]:
        print(f"no benchmark {unknown[0]}: choose from {', '.join(NAMES)}", file=sys.stderr)
        return 2
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in chosen:
            print(f"== {name}", flush=True)
            out = Path(scratch) / f"{name}.json"
            command = [sys.executable, "-m", f"{__package__}.{name}", *options]
            if save:
                command += ["--out", str(out)]
            status = subprocess.run(command, cwd=FOLDER.parent, check=False).returncode
            if status:
                return status
            if save:
                figures[name] = json.loads(out.read_text())
    if save:
        print(f"saved {keep(figures)}")
    return 0


def keep(figures: dict[str, object]) -> Path:
    """Write the figures and what they were taken on; a second file of a day gets a number."""
    now = rfc3339(SystemClock().now())
    results = FOLDER / "results"
    results.mkdir(exist_ok=True)
    taken = sum(1 for _ in results.glob(f"{now[:10]}*.json"))
    path = results / f"{now[:10]}{f'-{taken + 1}' if taken else ''}.json"
    machine = {
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[2],
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    path.write_text(json.dumps({"at": now, "machine": machine, **figures}, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
