from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import insert, select

from intramuros.control.session.visit_upkeep import VisitUpkeep
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.ssh_tables import ssh_certificates as table
from intramuros.control.store.tables import metadata, workspaces
from intramuros.kernel.errors import Unavailable
from intramuros.kernel.service import Stop
from intramuros.kernel.timing import ManualClock, to_micros
from tests.engines import database_url
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(database_url(tmp_path / "x.db"))
    with opened.engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(insert(workspaces).values(id="wrkspc_test", name="T", created_us=1))
    yield opened
    opened.close()


def issued(clock: ManualClock, serial: int, forget_us: int) -> dict[str, object]:
    now_us = to_micros(clock.now())
    return {
        "serial": serial,
        "workspace_id": "wrkspc_test",
        "session_id": "sesn_none",
        "environment_id": "env_1",
        "environment_kind": "self_hosted",
        "key_id": "k",
        "key": "f",
        "credential_id": "c",
        "created_us": now_us,
        "expires_us": now_us,
        "forget_us": forget_us,
    }


async def test_what_has_no_ground_is_revoked_and_what_is_old_forgotten(
    db: Database, clock: ManualClock
) -> None:
    now_us = to_micros(clock.now())
    rows = [issued(clock, 1, now_us), issued(clock, 2, now_us + 1)]
    await db.write(lambda tx: tx.execute(insert(table), rows) and None)

    async def left() -> list[tuple[int, str | None]]:
        def read(tx: Tx) -> list[tuple[int, str | None]]:
            found = tx.execute(select(table.c.serial, table.c.revoked_why))
            return [(row.serial, row.revoked_why) for row in found]

        return await db.read(read)

    stop = Stop()
    async with anyio.create_task_group() as group:
        group.start_soon(VisitUpkeep(db, clock, lambda: 0.5).run, stop)
        with anyio.fail_after(30):
            while await left() != [(2, "session_over")]:  # noqa: ASYNC110  of a database
                await anyio.sleep(0.02)
        stop.request()


async def test_it_goes_on_when_the_database_is_away(
    db: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    upkeep, looks = VisitUpkeep(db, clock, lambda: 0.5), []
    monkeypatch.setattr("intramuros.control.session.visit_upkeep.PERIOD_S", 0.01)

    async def look() -> None:
        looks.append(1)
        raise Unavailable("away")

    monkeypatch.setattr(upkeep, "look", look)
    stop = Stop()
    async with anyio.create_task_group() as group:
        group.start_soon(upkeep.run, stop)
        await until(lambda: len(looks) > 2)
        stop.request()


async def test_nothing_is_written_when_nothing_is_due(
    db: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("wrote")

    monkeypatch.setattr(db, "write", refuse)
    await VisitUpkeep(db, clock, lambda: 0.5).look()
