"""What idle sandboxes weigh, and how long glob and grep take in a large tree beside ripgrep.

``python -m benchmarks.sandbox [--sandboxes N] [--files N] [--rounds N] [--rg PATH] [--out FILE]``

ripgrep runs in the same sandbox with the same limits, and both take turns. It is not on the
sandbox's PATH: an image that brings it has our grep run it, and then there is nothing to compare.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import anyio

from benchmarks.meter import MIB
from intramuros.execution.sandbox import processes
from intramuros.execution.sandbox.base import Limits, Mount, Sandbox, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.cgroups import find_groups
from intramuros.kernel.telemetry import configure

GIB: Final = 1024 * MIB
PER_GIB: Final = 300
TIMES_RIPGREP: Final = 3.0
_NEWEST: Final = ("--files", "--no-ignore", "--sortr", "modified")
"""glob gives the newest first, and so must ripgrep, to have done the same."""
_FOLDERS: Final = 250
_TREE: Final = """\
import os, sys
files, folders = int(sys.argv[1]), int(sys.argv[2])
words = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor".split()
line = " ".join(words) + "\\n"
for n in range(files):
    folder = f"/workspace/d{n % folders // 10}/e{n % folders}"
    if n < folders:
        os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/f{n}.{'py' if n % 100 == 0 else 'txt'}", "w") as file:
        file.write(line * 8 + (f"needle number {n}\\n" if n % 500 == 0 else line) + line * 8)
"""


async def weigh(provider: BubblewrapProvider, count: int) -> dict[str, Any]:
    """Start so many sandboxes, leave them alone, and return what one of them weighs."""
    async with AsyncExitStack() as stack:
        pids = []
        for number in range(count):
            made = await provider.create(SandboxSpec(), f"idle_{number}")
            stack.push_async_callback(made.destroy, keep_workspace=False)
            pids.append(made.host_pid)
        await anyio.sleep(1.0)
        share = statistics.mean(sum(map(_share, _processes(pid))) for pid in pids)
        charged = statistics.mean(map(_charged, pids))
    return {
        "sandboxes": count,
        "processes_mib": round(share / MIB, 2),
        "charged_mib": round(charged / MIB, 2),
        "per_gib": int(GIB / max(share, charged)),
    }


def _processes(outer: int) -> list[int]:
    return [outer, *processes.descendants(outer, processes.parents())]


def _share(pid: int) -> int:
    """Return a process's memory, what it shares divided among those that share it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} does not say what it weighs")


def _charged(pid: int) -> int:
    """Return what its control group is charged, the kernel's own memory included; 0 without one.

    Pages of files are left out: they are everybody's, and given back when memory is short.
    """
    groups = find_groups()
    parent = groups.parents.get("memory")
    if parent is None:
        return 0
    for group in parent.glob("intramuros-*"):
        if str(pid) in (group / "cgroup.procs").read_text().split():
            name = "memory.usage_in_bytes" if groups.version == 1 else "memory.current"
            rows = (group / "memory.stat").read_text().splitlines()
            stat = {key: int(value) for key, value in map(str.split, rows)}
            files = stat["active_file"] + stat["inactive_file"]
            return int((group / name).read_text()) - files
    return 0


async def search(
    provider: BubblewrapProvider, files: int, rounds: int, rg: Path
) -> dict[str, dict[str, float]]:
    """Return medians of glob and grep in milliseconds, ours and ripgrep's, and the ratios."""
    spec = SandboxSpec(
        limits=Limits(cpus=float(os.cpu_count() or 1)), mounts=(Mount(rg, "/mnt/ripgrep/rg"),)
    )
    sandbox = await provider.create(spec, "tree")
    done = await sandbox.exec(["python3", "-c", _TREE, str(files), str(_FOLDERS)], timeout_s=120)
    if done.exit_code != 0:
        raise RuntimeError(done.stderr.decode())
    pairs = {
        "glob": ({"pattern": "**/*.py"}, [*_NEWEST, "-g", "**/*.py", "."]),
        "glob of all": ({"pattern": "**/*"}, [*_NEWEST, "."]),
        "grep": ({"pattern": r"needle number \d+"}, ["-n", "-e", r"needle number \d+", "."]),
    }
    found: dict[str, dict[str, float]] = {}
    try:
        for name, (arguments, theirs) in pairs.items():
            taken: dict[str, list[float]] = {"ours": [], "ripgrep": []}
            for _ in range(rounds):
                began = time.perf_counter()
                await _ours(sandbox, name.split()[0], arguments)
                taken["ours"].append((time.perf_counter() - began) * 1000)
                began = time.perf_counter()
                await sandbox.exec(["/mnt/ripgrep/rg", "--no-config", *theirs])
                taken["ripgrep"].append((time.perf_counter() - began) * 1000)
            medians = {side: round(statistics.median(ms), 1) for side, ms in taken.items()}
            found[name] = {**medians, "ratio": round(medians["ours"] / medians["ripgrep"], 2)}
    finally:
        await sandbox.destroy(keep_workspace=False)
    return found


async def _ours(sandbox: Sandbox, tool: str, arguments: dict[str, str]) -> None:
    outcome = await sandbox.call(tool, arguments)
    if outcome.is_error or outcome.content[0]["text"] == "no matches":
        raise RuntimeError(str(outcome.content)[:200])


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all that was asked for."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        provider = BubblewrapProvider(Path(folder, "state"))
        await provider.start()
        try:
            if options.sandboxes:
                figures["idle"] = await weigh(provider, options.sandboxes)
            if options.rg is not None:
                figures["search"] = await search(
                    provider, options.files, options.rounds, options.rg
                )
        finally:
            await provider.aclose()
    return figures


def main() -> int:
    """Measure, show, and keep the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sandboxes", type=int, default=100)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=9)
    found = shutil.which("rg")
    parser.add_argument("--rg", type=Path, default=Path(found) if found else None)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    configure(json=True, level="error")
    load = os.getloadavg()[0]
    figures = anyio.run(run, options)
    if "idle" in figures:
        print(f"idle: {figures['idle']}")
        held = figures["idle"]["per_gib"] >= PER_GIB
        print(f"at least {PER_GIB} idle sandboxes per GiB: {'held' if held else 'MISSED'}")
    for name, row in figures.get("search", {}).items():
        held = row["ratio"] <= TIMES_RIPGREP
        print(f"{name}: {row}: at most {TIMES_RIPGREP:g}x: {'held' if held else 'MISSED'}")
    if options.rg is None:
        print("no rg on this machine: glob and grep were not compared (--rg PATH)")
    print(f"load {load:.1f} on {os.cpu_count()} cores")
    if options.out:
        options.out.write_text(json.dumps({"load": load, **figures}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
