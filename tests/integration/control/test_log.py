"""The log under many writers, and under kill -9."""

import os
import random
import signal
import subprocess
import sys
from functools import reduce
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from intramuros.control.session.fold import fold
from intramuros.control.session.state import initial, load
from intramuros.control.store.db import Database
from intramuros.control.store.records import Draft, Record, primary_thread_id
from intramuros.kernel.config import environment
from tests.engines import database_url
from tests.integration.control.log import Log, read, row

ROOT = Path(__file__).parents[3]
WRITERS, EACH = 20, 25


def check_gapless(records: list[Record]) -> None:
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    times = [record.at_us for record in records]
    assert all(a < b for a, b in pairwise(times))
    assert len({record.id for record in records}) == len(records)


@pytest.mark.anyio
async def test_many_writers_leave_no_gap(tmp_path: Path) -> None:
    log = await Log.create(tmp_path / "x.db")
    acknowledged: list[tuple[int, str]] = []

    async def write(number: int) -> None:
        dice = random.Random(number)
        for _ in range(EACH):
            drafts = [Draft("session.updated", {})] * dice.randint(1, 3)
            acknowledged.extend((r.seq, r.id) for r in await log.append(*drafts))

    try:
        async with anyio.create_task_group() as group:
            for number in range(WRITERS):
                group.start_soon(write, number)
        records = read(log.db, log.session_id)
        check_gapless(records)
        assert sorted(acknowledged) == [(r.seq, r.id) for r in records]
    finally:
        log.db.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("lines", [1, 40, 150])
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "x.db"
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.control.log", database_url(path), "8"],
        cwd=ROOT,
        env={**environment(), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    try:
        session_id = writer.stdout.readline().strip()
        told = [writer.stdout.readline() for _ in range(lines)]
    finally:
        os.kill(writer.pid, signal.SIGKILL)
    told += writer.stdout.read().splitlines(keepends=True)
    writer.stdout.close()
    writer.wait()
    whole = [line.split() for line in told if line.endswith("\n")]
    acknowledged = {(int(seq), event_id) for seq, event_id in whole}
    assert len(acknowledged) >= lines

    db = Database.open(database_url(path))
    try:
        records = read(db, session_id)
        stored = row(db, session_id)
    finally:
        db.close()
    check_gapless(records)
    assert (stored.last_seq, stored.updated_us) == (records[-1].seq, records[-1].at_us)
    assert load(stored.state) == reduce(
        fold, records, initial(primary_thread_id(session_id), self_hosted=True)
    )
    assert acknowledged <= {(r.seq, r.id) for r in records}
