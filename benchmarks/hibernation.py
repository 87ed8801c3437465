"""What it costs to let a sandbox stand still, to put it away, and to wake it; beside tar.

``python -m benchmarks.hibernation [--rounds N] [--out FILE]``

A small workspace (ten files) and a large one (200 files of 1 MB, nothing that compresses). Ours is
sealed, made durable and checked; tar copies the same workspace on the same disk and is synced too.
Both take turns, so that load from elsewhere hits both alike.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio

from benchmarks.meter import MIB, summary_ms
from intramuros.execution.hands import Hands
from intramuros.execution.record import Record
from intramuros.execution.resting import Resort
from intramuros.execution.sandbox import processes
from intramuros.execution.sandbox.base import SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.sandbox.live import LiveSandbox
from intramuros.execution.snapshots.catalogue import Catalogue
from intramuros.execution.snapshots.keys import Keyring
from intramuros.execution.snapshots.ledger import Ledger
from intramuros.execution.snapshots.shelf import Shelf
from intramuros.execution.snapshots.sleeper import Sleeper, Terms
from intramuros.kernel.telemetry import configure
from intramuros.kernel.timing import SystemClock

FILL: Final = {
    "small": "for i in $(seq 10); do echo $i > f$i; done",
    "200 MB": "for i in $(seq 200); do head -c 1000000 /dev/urandom > f$i; done",
}
STATE: Final = "cd /tmp; export A=1; f() { :; }; python3 -c 'import time; time.sleep(600)' &"
Taken = dict[str, list[int]]


async def measure(rounds: int, folder: Path) -> tuple[Taken, dict[str, float]]:
    """Return nanoseconds by what was measured, and how much memory a sleeping sandbox frees."""
    clock = SystemClock()
    provider = BubblewrapProvider(folder / "state")
    await provider.start()
    record = Record(folder / "audit.jsonl", clock)
    catalogue = Catalogue(Shelf.open(str(folder / "shelf")), Keyring.open(folder / "keys"))
    sleeper = Sleeper(catalogue, Ledger(folder / "awake"), record, Terms("bench", 1 << 40))
    hands = Hands(provider, SandboxSpec(), lambda: 0.5, resort=Resort(sleeper, clock))
    taken: Taken = {}
    freed = []
    try:
        for size, fill in FILL.items():
            session = f"sesn_{size[:2].strip()}"
            for _ in range(rounds):
                sandbox = await hands.take(session)
                if not isinstance(sandbox, LiveSandbox):
                    raise TypeError("not a sandbox of this host")
                await sandbox.call(
                    "bash", {"command": f"cd /workspace; [ -e f1 ] || {{ {fill}; }}"}
                )
                await sandbox.call("bash", {"command": STATE})
                if size == "small":
                    await _freeze(hands, session, taken)
                workspace = folder / "state/workspaces" / session
                await _tar(workspace, folder, size, taken)
                freed.append(_memory(set(_below(sandbox.host_pid))))
                await _timed(taken, f"put away {size}", partial(hands.rest, session))
                await _timed(taken, f"wake {size}", partial(_first, hands, session))
            await hands.forget(session)
    finally:
        await hands.aclose()
        await provider.aclose()
        record.close()
    return taken, {"memory_freed_mib": round(sum(freed) / len(freed) / MIB, 1)}


async def _freeze(hands: Hands, session: str, taken: Taken) -> None:
    for _ in range(5):
        await _timed(taken, "freeze", partial(hands.freeze, session))
        await _timed(taken, "thaw", partial(hands.take, session))


async def _first(hands: Hands, session: str) -> None:
    """Wake, to the first answer."""
    await (await hands.take(session)).call("bash", {"command": "true"})


async def _tar(workspace: Path, folder: Path, size: str, taken: Taken) -> None:
    archive, target = folder / "t.tar", folder / "untarred"

    def pack() -> None:
        subprocess.run(["tar", "-C", str(workspace), "-cf", str(archive), "."], check=True)
        fd = os.open(archive, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    def unpack() -> None:
        target.mkdir()
        subprocess.run(["tar", "-C", str(target), "-xf", str(archive)], check=True)

    await _timed(taken, f"tar {size}, synced", _threaded(pack))
    await _timed(taken, f"untar {size}", _threaded(unpack))
    await _threaded(lambda: subprocess.run(["rm", "-rf", str(target)], check=True))()


def _threaded(work: Callable[[], object]) -> Callable[[], Any]:
    return partial(anyio.to_thread.run_sync, work)


async def _timed(taken: Taken, what: str, act: Callable[[], Any]) -> None:
    began = time.perf_counter_ns()
    await act()
    taken.setdefault(what, []).append(time.perf_counter_ns() - began)


def _below(pid: int) -> list[int]:
    return processes.descendants(pid, processes.parents())


def _memory(pids: set[int]) -> int:
    total = 0
    for pid in pids:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:"))
    return total


def main() -> int:
    """Measure, show, and keep the figures if asked to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    configure(json=True, level="error")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        taken, memory = anyio.run(measure, options.rounds, Path(folder))
    figures: dict[str, Any] = {what: summary_ms(ns) for what, ns in taken.items()}
    for what, figure in figures.items():
        print(f"{what:22} {figure}")
    for size in FILL:
        for ours, theirs in (
            (f"put away {size}", f"tar {size}, synced"),
            (f"wake {size}", f"untar {size}"),
        ):
            ratio = figures[ours]["p50"] / figures[theirs]["p50"]
            print(f"{ours} / {theirs}: {ratio:.2f}")
    print(f"a sandbox that is put away frees {memory['memory_freed_mib']} MiB of memory")
    print(f"load {load:.1f} on {os.cpu_count()} cores")
    if options.out:
        options.out.write_text(json.dumps({"load": load, **figures, **memory}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
