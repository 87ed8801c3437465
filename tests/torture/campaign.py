"""One round of the campaign: a world, a schedule, clients, and a verdict."""

import json
import random
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio

from tests.postgres import Cluster
from tests.torture import gather
from tests.torture.checker import extent, judge
from tests.torture.client import Client
from tests.torture.evidence import Evidence
from tests.torture.faults import Tormentor
from tests.torture.journal import Journal
from tests.torture.programs import came_true
from tests.torture.schedule import Schedule, Targets, draw
from tests.torture.violations import Violation
from tests.torture.world import Shape, World, running

# What may still come after the last fault: leases run out (of a worker that died before its first
# heartbeat after 100 s), failed turns pause, requests are tried again.
GRACE_S = 150.0
# A worker that found no server for long asks again within a minute, and lets go of sessions that
# nobody uses some seconds later, a few at a time.
REST_S = 110.0


@dataclass(frozen=True)
class Round:
    """What to play.

    Args:
        seed: the first one.
        seconds: how long things go wrong, for each seed.
        sessions: how many begin with each seed.
        schedule: play this one instead of the seed's.
        seeds: how many seeds one world goes through, one after the other.
    """

    seed: int
    seconds: float
    sessions: int
    shape: Shape
    schedule: Schedule | None = None
    mean_gap_s: float = 1.5
    seeds: int = 1


@dataclass
class Verdict:
    """What came of a round. ``evidence`` is a directory that is kept if something is wrong."""

    schedules: list[Schedule]
    violations: list[Violation]
    extent: dict[str, int]
    seconds: float
    evidence: Path
    phases: dict[str, int] = field(default_factory=dict)

    def report(self) -> str:
        lines = [
            f"seed {self.schedules[0].seed}: {len(self.violations)} violations,"
            f" {self.extent}, {self.phases}"
        ]
        if self.violations:
            for schedule in self.schedules:
                faults = (f"  {fault}" for fault in schedule.faults)
                lines += [f"the schedule of seed {schedule.seed}:", *faults]
            lines += ["what is wrong:", *(f"  {violation}" for violation in self.violations[:40])]
            lines += [f"evidence: {self.evidence}"]
        return "\n".join(lines)


async def play(game: Round, folder: Path, cluster: Cluster | None) -> Verdict:
    """Play a round and judge it. Its directory goes unless something is wrong."""
    began = time.monotonic()
    home = folder / f"seed-{game.seed}"
    database = None if cluster is None else cluster.database(str(home))
    shape = game.shape if cluster else replace(game.shape, servers=1)
    phases: dict[str, int] = {}
    async with running(home, shape, game.seed, database, cluster) as world:
        phases["start"] = round(time.monotonic() - began)
        schedules = _schedules(game, world.targets())
        unfinished: list[str] = []
        left: list[str] = []
        for schedule in schedules:
            (home / f"schedule-{schedule.seed}.json").write_text(schedule.dump())
            unfinished += await _torment(world, game, schedule)
            left += await _settle(world)
        phases["clients"] = round(time.monotonic() - began)
        told = await gather.told_by_api(world)
        left += await _close(world)
        phases["settled"] = round(time.monotonic() - began)
        evidence = await gather.gather(world, told, left, unfinished)
    verdict = Verdict(
        schedules, judge(evidence), extent(evidence), time.monotonic() - began, home, phases
    )
    if verdict.violations:
        _keep(verdict, evidence)
    else:
        shutil.rmtree(home, ignore_errors=True)
    if cluster is not None:
        cluster.release(folder)
    return verdict


def _schedules(game: Round, targets: Targets) -> list[Schedule]:
    if game.schedule:
        return [game.schedule]
    seeds = range(game.seed, game.seed + game.seeds)
    return [draw(seed, game.seconds, targets, game.mean_gap_s) for seed in seeds]


async def _torment(world: World, game: Round, schedule: Schedule) -> list[str]:
    """Run clients and faults; returns the clients that were still waiting after all the grace."""
    journals = world.home / "journals"
    finished: set[str] = set()
    clients = [f"s{schedule.seed}c{number}" for number in range(game.sessions)]
    until = time.monotonic() + schedule.seconds
    dice = random.Random(f"steps {schedule.seed}")

    async def one(name: str) -> None:
        with Journal(journals / f"client-{name}.jsonl") as journal:
            client = Client(world, name, schedule.seed, journal, until, steps=dice.randint(1, 4))
            await client.run()
            finished.add(name)

    with Journal(journals / f"faults-{schedule.seed}.jsonl") as deeds:
        with anyio.move_on_after(schedule.seconds + GRACE_S):
            async with anyio.create_task_group() as group:
                for name in clients:
                    group.start_soon(one, name)
                await Tormentor(world, deeds).play(schedule)
    return sorted(set(clients) - finished)


async def _settle(world: World) -> list[str]:
    """Wait until servers and workers have let go of everything; returns what did not go."""
    for name, program in world.programs.items():
        if name.startswith("server"):
            await _answers(world, int(name.rpartition(".")[2]))
        assert program.alive or program.down, name
    left: list[str] = []
    with anyio.move_on_after(REST_S):
        while True:
            left = [*_streams(world), *await gather.work_of(world)]
            if not left:
                return []
            await anyio.sleep(0.2)
    return left


async def _answers(world: World, number: int) -> None:
    with anyio.fail_after(60):
        while True:
            try:
                async with await anyio.connect_tcp("127.0.0.1", world.port(number)):
                    return
            except OSError:
                await anyio.sleep(0.1)


def _streams(world: World) -> list[str]:
    """Return connections that clients left behind, and the servers did not notice."""
    return [
        f"{name}: {count} connections of clients"
        for name, link in world.links.items()
        if name.startswith("client-") and (count := gather.connections_to(link.port))
    ]


async def _close(world: World) -> list[str]:
    """End every program in order; returns what did not end, or left something behind."""
    left = [
        f"{name} did not end when it was asked to"
        for name in sorted(world.programs, reverse=True)
        if not await world.programs[name].stop()
    ]
    await came_true(lambda: not gather.processes_of(world.home), 10)
    return left + gather.processes_of(world.home)


def _keep(verdict: Verdict, evidence: Evidence) -> None:
    """Leave what a person needs to see why, and how to see it again."""
    (verdict.evidence / "verdict.txt").write_text(verdict.report() + "\n")
    rows = {
        session.id: [[r.seq, r.id, r.type, r.queued, r.at_us, r.body, r.private] for r in s_rows]
        for session in evidence.sessions.values()
        for s_rows in [session.rows]
    }
    (verdict.evidence / "logs.json").write_text(json.dumps(rows, default=str, indent=1))
    chains = verdict.evidence / "chains"
    chains.mkdir(exist_ok=True)
    for name, lines in evidence.chains.items():
        (chains / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
