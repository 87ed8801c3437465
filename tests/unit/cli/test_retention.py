from pathlib import Path

import anyio
import pytest

from intramuros.control.identity.installation import Installation, open_installation
from intramuros.control.store.db import Tx
from intramuros.kernel.timing import ManualClock
from tests.engines import database_url, on_postgres
from tests.fakes.world import World
from tests.unit.cli.conftest import Run


async def fill(data_dir: Path) -> str:
    """Make an installation with a session that ended long ago and one that has not."""
    opened: Installation = await open_installation(
        data_dir, database_url(data_dir / "intramuros.db")
    )

    def work(tx: Tx) -> None:
        world = World(tx, ManualClock(), opened.ids, opened.workspace_id, opened.db)
        world.say(world.create())
        world.sessions.archive(tx, world.api, world.create())

    await opened.db.write(work)
    opened.close()
    return opened.workspace_id


def test_what_would_go_is_shown_and_stays(run: Run, tmp_path: Path) -> None:
    workspace_id = anyio.run(fill, tmp_path)
    for _ in range(2):
        done = run(
            *("db", "retention", "30", "--data-dir", tmp_path),
            *("--database-url", database_url(tmp_path / "intramuros.db")),
        )
        assert done.status == 0, done.err
        lines = done.out.splitlines()
        assert lines[0].startswith(f"{workspace_id}\t1 sessions\t")
        assert lines[-1].startswith("would go: 1 sessions with ")
        if on_postgres():
            assert lines[1].startswith("events_p0\t… to …\t1 of 2 sessions\t")
            assert lines[1].endswith("\tstays")


@pytest.mark.parametrize("days", ["-1", "nan", "40000"])
def test_numbers_of_days_that_make_no_sense_are_refused(
    run: Run, tmp_path: Path, days: str
) -> None:
    done = run("db", "retention", "--data-dir", tmp_path, "--", days)
    assert done.status == 2
    assert "cannot be kept" in done.err
