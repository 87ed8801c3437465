"""Schedulers that are killed: every nominal time still has exactly one run, with its session."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from intramuros.control.deployment.deployments import Deployments
from intramuros.control.deployment.scheduler import LEASE_S
from intramuros.control.deployment.timetable import MAX_DELAY_US
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.installation import open_installation
from intramuros.control.store.db import Tx
from intramuros.control.store.repository_tokens import Tokens
from intramuros.kernel.config import environment
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.audit import verify
from intramuros.protocol.resources.deployments import DeploymentCreate
from tests.e2e.scheduler_process import FileClock
from tests.engines import opened
from tests.fakes.deployments import GO
from tests.fakes.world import World
from tests.waiting import until
from tests.wire.host import ROOT

ORIGIN = datetime(2026, 10, 25, 0, 59, 50, tzinfo=UTC)
# The second 1:00 of that night in Dublin, and noon in Kathmandu, are ten seconds away.
SCHEDULES = (("0 * * * *", "UTC"), ("0 1 * * *", "Europe/Dublin"), ("45 6 * * *", "Asia/Kathmandu"))
NOMINAL = datetime(2026, 10, 25, 1, tzinfo=UTC)
# A lease, and a second more.
LAPSE = timedelta(seconds=LEASE_S + 1)

pytestmark = pytest.mark.anyio


async def prepare(data_dir: Path, count: int) -> list[str]:
    """Make deployments whose schedules are all due at the same minute."""
    opened = await open_installation(data_dir)
    clock = ManualClock(ORIGIN)

    def work(tx: Tx) -> list[str]:
        world = World(tx, clock, opened.ids, opened.workspace_id)
        actor = Actor(clock, opened.ids, opened.workspace_id, "test")
        made = []
        tokens = Tokens(opened.sealer, opened.ids.random)
        for number in range(count):
            expression, zone = SCHEDULES[number % len(SCHEDULES)]
            request = DeploymentCreate.model_validate(
                {
                    "name": f"d{number}",
                    "agent": world.agent_id,
                    "environment_id": world.environment_id,
                    "initial_events": [GO],
                    "schedule": {"type": "cron", "expression": expression, "timezone": zone},
                }
            )
            made.append(Deployments(tokens).create(tx, actor, request).resource.id)
        return made

    try:
        return await opened.db.write(work)
    finally:
        opened.close()


@contextmanager
def scheduler(data_dir: Path, trap: str = "nowhere") -> Iterator["subprocess.Popen[str]"]:
    """Run a scheduler until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.scheduler_process", data_dir, clock_of(data_dir), trap],
        cwd=ROOT,
        env={**environment(), "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def clock_of(data_dir: Path) -> Path:
    return data_dir / "clock"


def rows(data_dir: Path, sql: str) -> list[Any]:
    with opened(data_dir) as db:
        return db.execute(sql)


def ran(data_dir: Path) -> int:
    return int(rows(data_dir, "SELECT count(*) FROM deployment_runs")[0][0])


def check_exactly_one(data_dir: Path, ids: list[str]) -> None:
    found = rows(data_dir, "SELECT deployment_id, session_id, scheduled_us FROM deployment_runs")
    assert sorted(row[0] for row in found) == sorted(ids)
    assert {row[2] for row in found} == {int(NOMINAL.timestamp()) * 1_000_000}
    sessions = rows(data_dir, "SELECT deployment_id, id FROM sessions")
    assert sorted(sessions) == sorted((row[0], row[1]) for row in found)
    verify(row[0] for row in rows(data_dir, "SELECT line FROM audit ORDER BY seq"))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("trap", ["claimed", "writing", "written"])
async def test_R221_a_scheduler_killed_in_the_middle_of_a_fire(tmp_path: Path, trap: str) -> None:
    ids = await prepare(tmp_path, 3)
    clock = FileClock(clock_of(tmp_path))
    at = NOMINAL + timedelta(microseconds=MAX_DELAY_US)
    clock.set(at)
    with scheduler(tmp_path, trap) as first:
        await until(lambda: first.poll() is not None)
    assert first.returncode == -signal.SIGKILL
    # Nothing of what it had begun is there.
    assert rows(tmp_path, "SELECT id FROM sessions") == []
    with scheduler(tmp_path):
        await anyio.sleep(0.5)
        assert ran(tmp_path) == 0
        clock.set(at + LAPSE)
        await until(lambda: ran(tmp_path) >= len(ids))
        clock.set(at + 3 * LAPSE)
        await anyio.sleep(0.5)
    check_exactly_one(tmp_path, ids)


@pytest.mark.timeout(240)
async def test_R221_schedulers_killed_again_and_again_while_they_fire(tmp_path: Path) -> None:
    ids = await prepare(tmp_path, 60)
    clock = FileClock(clock_of(tmp_path))
    at = NOMINAL
    clock.set(at)
    with scheduler(tmp_path):
        for _ in range(7):
            with scheduler(tmp_path) as victim:
                before = ran(tmp_path)
                at += LAPSE
                clock.set(at)
                await until(lambda before=before: ran(tmp_path) > before)
                victim.kill()
        # The last delays end, and so do the leases of the dead.
        for _ in range(4):
            at += LAPSE
            clock.set(at)
            with anyio.move_on_after(5):
                await until(lambda: ran(tmp_path) >= len(ids))
        await until(lambda: ran(tmp_path) >= len(ids))
    check_exactly_one(tmp_path, ids)
