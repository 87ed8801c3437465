"""What a sandbox of each provider costs on this host, side by side: made, answered, destroyed.

Rounds go through the providers in turn, so that the load of the machine meets them alike. The ratio
is to bubblewrap. A provider that does not work here is named with what it lacks.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns

import anyio

from benchmarks.meter import summary_ms
from intramuros.execution.sandbox.base import Level, Provider, SandboxSpec
from intramuros.execution.sandbox.providers import open_provider
from intramuros.execution.sandbox.trial import probe_for_real

NAMES = ("bubblewrap", "process", "oci:runc", "oci:crun", "gvisor")
_OWN_RUNSC = Path(__file__).parents[1] / ".sandboxes/usr/bin/runsc"


@dataclass
class Samples:
    """Nanoseconds, one of each kind a round."""

    made: list[int] = field(default_factory=list)
    """Until it serves."""
    first: list[int] = field(default_factory=list)
    """Of the first ``bash`` call, in which the shell starts."""
    call: list[int] = field(default_factory=list)
    """Of ``bash true`` in a shell that runs."""
    read: list[int] = field(default_factory=list)
    """Of ``read`` on a small file."""
    destroyed: list[int] = field(default_factory=list)


async def once(provider: Provider, number: int, samples: Samples) -> None:
    """Measure one sandbox from beginning to end."""

    def lap(into: list[int]) -> None:
        nonlocal began
        into.append(perf_counter_ns() - began)
        began = perf_counter_ns()

    began = perf_counter_ns()
    sandbox = await provider.create(SandboxSpec(), f"bench-{os.getpid()}-{number}")
    lap(samples.made)
    await sandbox.call("bash", {"command": "true"})
    lap(samples.first)
    await sandbox.call("bash", {"command": "true"})
    lap(samples.call)
    await sandbox.call("write", {"file_path": "f", "content": "text"})
    await sandbox.call("read", {"file_path": "f"})
    began = perf_counter_ns()
    await sandbox.call("read", {"file_path": "f"})
    lap(samples.read)
    await sandbox.destroy(keep_workspace=False)
    lap(samples.destroyed)


def usable(names: Sequence[str]) -> list[str]:
    """Return the providers that work here, by full name; say what the others lack."""
    found = []
    for name in names:
        full = f"gvisor:{_OWN_RUNSC}" if name == "gvisor" and _OWN_RUNSC.exists() else name
        finding = probe_for_real(lambda folder, full=full: open_provider(full, folder))
        if finding.level is Level.OK:
            found.append(full)
        else:
            print(f"{name}: not here: {finding.what}")
    return found


async def measure(names: Sequence[str], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Measure all of them and return the figures by provider."""
    samples = {name: Samples() for name in names}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="intramuros-bench-")))
        providers = {}
        for number, name in enumerate(names):
            providers[name] = open_provider(name, folder / str(number))
            await providers[name].start()
            stack.push_async_callback(providers[name].aclose)
        for number in range(rounds + 1):
            for name, provider in providers.items():
                # The first round fills caches and counts for nothing.
                into = samples[name] if number else Samples()
                await once(provider, number, into)
    return {
        name.partition("/")[0].rstrip(":"): {
            kind: summary_ms(values) for kind, values in vars(taken).items()
        }
        for name, taken in samples.items()
    }


def show(figures: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print medians, the tail of starting, and the ratio to bubblewrap."""
    base = figures.get("bubblewrap", {}).get("made", {}).get("p50")
    print(
        f"{'provider':12} {'made':>8} {'p95':>8} {'ratio':>6} {'first':>7} {'bash':>7} "
        f"{'read':>7} {'gone':>7}   milliseconds, medians"
    )
    for name, kinds in figures.items():
        ratio = f"{kinds['made']['p50'] / base:.1f}" if base else "-"
        print(
            f"{name:12} {kinds['made']['p50']:8.1f} {kinds['made']['p95']:8.1f} {ratio:>6} "
            f"{kinds['first']['p50']:7.1f} {kinds['call']['p50']:7.2f} "
            f"{kinds['read']['p50']:7.2f} {kinds['destroyed']['p50']:7.1f}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    before = os.getloadavg()[0]
    figures = anyio.run(measure, usable(NAMES), given.rounds)
    show(figures)
    load = {"before": round(before, 2), "after": round(os.getloadavg()[0], 2)}
    print(
        f"load {load['before']} before, {load['after']} after, {os.cpu_count()} processors, "
        f"{'root' if os.geteuid() == 0 else 'an ordinary user'}"
    )
    if given.out is not None:
        given.out.write_text(json.dumps({"figures": figures, "load": load}))


if __name__ == "__main__":
    main()
