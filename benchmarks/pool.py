"""What a session waits for its sandbox: one made when it is needed, and one that waited.

``python -m benchmarks.pool [--rounds N] [--out FILE]``

Both kinds take turns, so that load from elsewhere hits both alike. Each figure is from the moment a
sandbox is asked for to the first tool's answer; the bounds are those of the product, and a miss of
one is said, not hidden.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import anyio

from benchmarks.meter import summary_ms
from intramuros.execution.sandbox.base import Mount, Sandbox, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.kernel.telemetry import configure

COLD_MS: Final = 30.0
WARM_MS: Final = 5.0
DESTROY_MS: Final = 10.0
PAUSE_S: Final = 0.05
"""Between two sessions; the first move into a control group of a while is dear."""
CALLS: Final[Mapping[str, tuple[str, dict[str, str]]]] = {
    "bash": ("bash", {"command": "true"}),
    "read": ("read", {"file_path": "/usr/bin/env-does-not-matter"}),
}


async def measure(rounds: int, folder: Path) -> dict[str, list[int]]:
    """Return nanoseconds by what was measured."""
    provider = BubblewrapProvider(folder / "state")
    await provider.start()
    outputs = folder / "outputs"
    outputs.mkdir()
    mounted = SandboxSpec(
        mounts=(Mount(outputs, "/mnt/session/outputs", read_only=False, owned=True),)
    )
    taken: dict[str, list[int]] = {}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(provider.watch)  # as a worker does
        try:
            await _rounds(provider, rounds, mounted, taken)
        finally:
            tasks.cancel_scope.cancel()
    await provider.aclose()
    return taken


async def _rounds(
    provider: BubblewrapProvider, rounds: int, mounted: SandboxSpec, taken: dict[str, list[int]]
) -> None:
    for number in range(rounds):
        for name, (tool, arguments) in CALLS.items():
            for label, spec in (("", SandboxSpec()), (" with a mount", mounted)):
                session = f"sesn_{number}_{name}_{len(label)}"
                await anyio.sleep(PAUSE_S)
                began = time.perf_counter_ns()
                cold: Sandbox = await provider.create(spec, f"{session}_c")
                await cold.call(tool, arguments)
                _add(taken, f"cold to {name}{label}", began)
                await _destroy(cold, taken)
                spare = await provider.prepare(SandboxSpec())
                await anyio.sleep(PAUSE_S)
                began = time.perf_counter_ns()
                warm = await provider.adopt(spare, spec, f"{session}_w")
                if warm is None:
                    raise RuntimeError("the spare did not fit")
                await warm.call(tool, arguments)
                _add(taken, f"warm to {name}{label}", began)
                await _destroy(warm, taken)


async def _destroy(sandbox: Sandbox, taken: dict[str, list[int]]) -> None:
    began = time.perf_counter_ns()
    await sandbox.destroy(keep_workspace=False)
    _add(taken, "destroy", began)


def _add(taken: dict[str, list[int]], what: str, began: int) -> None:
    taken.setdefault(what, []).append(time.perf_counter_ns() - began)


def main() -> int:
    """Measure, show, and keep the figures if asked to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    configure(json=True, level="error")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        taken = anyio.run(measure, options.rounds, Path(folder))
    figures: dict[str, Any] = {what: summary_ms(ns) for what, ns in sorted(taken.items())}
    for what, figure in figures.items():
        print(f"{what:28} {figure}")
    bounds = {"cold to bash": COLD_MS, "warm to bash": WARM_MS, "destroy": DESTROY_MS}
    for what, bound in bounds.items():
        verdict = "held" if figures[what]["p50"] <= bound else "MISSED"
        print(f"{what}: at most {bound:g} ms: {verdict}")
    print(f"load {load:.1f} on {os.cpu_count()} cores")
    if options.out:
        options.out.write_text(json.dumps({"load": load, **figures}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
