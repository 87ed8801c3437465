"""A database that is not up yet is waited for, one that never will be is not."""

from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from intramuros.control.store import patience
from intramuros.control.store.db import Database
from intramuros.control.store.drivers import DatabaseAway
from intramuros.control.store.migrate import upgrade
from intramuros.kernel.errors import OperatorError

pytestmark = pytest.mark.anyio


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often a database is asked for; as many failures as the URL says come first."""
    made: list[str] = []
    right = Database.open

    def open_later(url: str, **more: float) -> Database:
        made.append(url)
        failures, _, rest = url.partition("!")
        if len(made) <= int(failures):
            raise DatabaseAway("cannot reach the database here/x (refused)", "look at its log")
        return right(rest, **more)

    monkeypatch.setattr(Database, "open", open_later)
    monkeypatch.setattr(patience, "BASE_S", 0.001)
    return made


async def test_it_is_asked_again_until_it_answers(tmp_path: Path, attempts: list[str]) -> None:
    with capture_logs() as logs:
        db = await patience.open_when_up(
            f"3!sqlite:///{tmp_path}/x.db", 600.0, lambda db: upgrade(db.engine)
        )
    db.close()
    assert len(attempts) == 4
    told = [entry for entry in logs if entry["event"] == "database_awaited"]
    assert len(told) == 3
    assert told[0]["why"] == "cannot reach the database here/x (refused)"


async def test_the_wait_ends_with_what_was_wrong(attempts: list[str]) -> None:
    with anyio.fail_after(60), pytest.raises(OperatorError) as given_up:
        await patience.open_when_up("999999!", 0.05, lambda _: None)
    assert len(attempts) > 1
    assert "cannot reach the database here/x (refused), for 0.05 s" in str(given_up.value)
    assert "--database-wait-s" in given_up.value.fix


async def test_without_patience_it_is_asked_once(attempts: list[str]) -> None:
    with pytest.raises(DatabaseAway):
        await patience.open_when_up("9!", 0.0, lambda _: None)
    assert len(attempts) == 1


async def test_nobody_waits_for_what_time_does_not_cure(tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as refused:
        await patience.open_when_up(f"sqlite:///{tmp_path}/no/x.db", 600.0, lambda _: None)
    assert not isinstance(refused.value, DatabaseAway)


async def test_what_fails_in_preparing_releases_the_database(tmp_path: Path) -> None:
    seen: list[Database] = []

    def fail(db: Database) -> None:
        seen.append(db)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await patience.open_when_up(f"sqlite:///{tmp_path}/x.db", 600.0, fail)
    (db,) = seen
    assert not any(thread.is_alive() for thread in db._threads)
