"""A worker's hands over real sandboxes, in processes that end themselves between two steps.

``python -m tests.integration.execution.snapshots.rig FOLDER hibernate|wake STEP…`` prints one JSON
object: for each step what the next worker found, or why nothing came of it.
"""

import json
import os
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio

from intramuros.execution.hands import Hands
from intramuros.execution.record import Record
from intramuros.execution.resting import Resort
from intramuros.execution.sandbox.base import Sandbox, SandboxSpec
from intramuros.execution.sandbox.bubblewrap import BubblewrapProvider
from intramuros.execution.snapshots.catalogue import Catalogue
from intramuros.execution.snapshots.keys import Keyring
from intramuros.execution.snapshots.ledger import Ledger
from intramuros.execution.snapshots.shelf import Shelf
from intramuros.execution.snapshots.sleeper import Sleeper, Terms, no_step
from intramuros.kernel.timing import SystemClock

SESSION = "sesn_rig"


@asynccontextmanager
async def worker(
    folder: Path,
    *,
    name: str = "A",
    keep: int = 0,
    shared: bool = False,
    step: Callable[[str], None] = no_step,
    spec: SandboxSpec | None = None,
) -> AsyncIterator[Hands]:
    """Run one worker's hands; a folder is shared by the workers of a place."""
    clock = SystemClock()
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    provider = BubblewrapProvider(own / "sandboxes")
    await provider.start()
    await provider.sweep()
    record = Record(own / "audit.jsonl", clock)
    catalogue = Catalogue(Shelf.open(str(folder / "shelf")), Keyring.open(folder / "keys"))
    sleeper = Sleeper(catalogue, Ledger(own / "awake"), record, Terms(name, 1 << 32), step)
    resort = Resort(sleeper, clock, shared)
    hands = Hands(provider, spec or SandboxSpec(), lambda: 0.5, keep=keep, resort=resort)
    try:
        yield hands
    finally:
        with anyio.CancelScope(shield=True):
            await hands.aclose()
            await provider.aclose()
            record.close()


async def bash(sandbox: Sandbox, command: str) -> str:
    outcome = await sandbox.call("bash", {"command": command})
    return str(outcome.content[0]["text"])


def die_at(wanted: str) -> Callable[[str], None]:
    def step(name: str) -> None:
        if name == wanted:
            os.kill(os.getpid(), 9)

    return step


async def live(folder: Path) -> None:
    """Have a session with files and a shell's state, put away."""
    async with worker(folder) as hands:
        sandbox = await hands.take(SESSION)
        await bash(sandbox, "echo kept > file; mkdir -p deep/er; cd deep; X=5")
        await hands.rest(SESSION)


async def hibernate(folder: Path, step: str) -> None:
    async with worker(folder, step=die_at(step)) as hands:
        sandbox = await hands.take(SESSION)
        await bash(sandbox, "echo kept > file; mkdir -p deep/er; cd deep; X=5")
        await hands.rest(SESSION)


async def wake(folder: Path, step: str) -> None:
    await live(folder)
    async with worker(folder, step=die_at(step)) as hands:
        await hands.take(SESSION)


async def look(folder: Path) -> dict[str, object]:
    async with worker(folder) as hands:
        sandbox = await hands.take(SESSION)
        said = await bash(sandbox, "cat /workspace/file; ls /workspace; echo ${X-none} $PWD")
        left = [str(p.name) for p in (folder / "A/sandboxes/sandboxes").iterdir()]
        return {"said": said.split("\n"), "notice": await hands.notice(SESSION), "live": left}


def forked(run: Callable[[], Awaitable[object]]) -> tuple[int, str]:
    """Run something in a process of its own; returns how it ended, and its result as JSON.

    This process must stay without threads, which a fork would not take along.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read)
            os.write(write, json.dumps(anyio.run(run)).encode())
            status = 0
        except BaseException:  # noqa: BLE001  the end of this process
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as result:
        said = result.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def main(folder: Path, phase: str, steps: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    act = {"hibernate": hibernate, "wake": wake}[phase]
    for step in steps:
        ended, _ = forked(partial(act, folder / step, step))
        _, said = forked(partial(look, folder / step))
        found[step] = {"ended": ended, **json.loads(said or '{"error": "see above"}')}
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])))  # noqa: T201  its answer
