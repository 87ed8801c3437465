"""The fake model of the benchmarks, and how long results took to it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from tests.wire.host import ROOT

from intramuros.kernel.config import environment


@contextmanager
def timed_model(*, times: int = 0, think_s: float = 0.0, pieces: int = 0) -> Iterator[str]:
    """Run the model's process; yields its base URL."""
    command = [sys.executable, "-m", "tests.fakes.timed_model", "--times", str(times)]
    command += ["--think-s", str(think_s), "--pieces", str(pieces)]
    env = {**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("ready ").strip()
        finally:
            process.terminate()


async def waits(model_url: str) -> list[int]:
    """Return how long results took to the model since the last time, in nanoseconds."""
    async with httpx2.AsyncClient() as client:
        found: list[int] = (await client.get(f"{model_url}/_waits")).json()
        return found
