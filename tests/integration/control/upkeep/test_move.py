"""From SQLite to PostgreSQL: every row and number, or nothing; and a server that goes on there."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import reduce
from pathlib import Path

import anyio
import httpx2
import pytest
from anthropic import Anthropic
from sqlalchemy import Connection, select

from intramuros.cli import audit as audit_cli
from intramuros.control.identity.installation import open_installation
from intramuros.control.session.fold import fold
from intramuros.control.session.state import initial, load
from intramuros.control.store import events, snapshots, whole
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.rekey import KeyFiles
from intramuros.control.store.sqlite import MOVED
from intramuros.control.store.tables import sessions
from intramuros.control.upkeep import move
from intramuros.control.upkeep.attached import Place, attach
from intramuros.kernel.errors import OperatorError
from intramuros.protocol.audit import verify
from tests.fakes.installation import SCRIPTS, shown, used
from tests.integration.control.upkeep.test_backup import killed, made_of, quiet
from tests.integration.control.upkeep.test_restore import lines_of, sums_of
from tests.postgres import Cluster
from tests.wire.host import Server, running
from tests.wire.site import MESSAGE, Site

pytestmark = pytest.mark.sqlite


def last_kind(place: Place) -> str:
    return str(json.loads(lines_of(place)[-1])["kind"])


@pytest.mark.timeout(240)
def test_everything_arrives_and_the_file_is_out_of_use(place: Place, empty_url: str) -> None:
    before, records = sums_of(place), lines_of(place)
    done = move.move(place, empty_url, quiet)
    assert not done.before
    assert done.rows == sum(one.rows for one in done.tables.values())
    there = Place(place.data_dir, empty_url)
    assert sums_of(there) == before == {n: s for n, s in done.tables.items() if n in before}
    after = lines_of(there)
    assert verify(after).seq == len(records) + 1
    assert after[:-1] == records
    assert last_kind(there) == "installation.move"
    attach(there).close()
    for work in (
        lambda: anyio.run(open_installation, place.data_dir),
        lambda: attach(place),
        lambda: move.move(place, empty_url, quiet),
    ):
        with pytest.raises(OperatorError, match="was moved to PostgreSQL"):
            work()
    with pytest.raises(OperatorError, match="not on SQLite"):
        move.move(there, empty_url, quiet)


@pytest.mark.timeout(240)
def test_a_move_can_be_undone(place: Place, empty_url: str) -> None:
    with pytest.raises(OperatorError, match="was not moved"):
        move.undo(place)
    before = sums_of(place)
    move.move(place, empty_url, quiet)
    server = KeyFiles(place.master_key)
    with pytest.raises(OperatorError, match="stop the server"):
        move.undo(place)
    server.release()
    move.undo(place)
    assert sums_of(place) == before
    assert last_kind(place) == "installation.move_undone"
    # What is there is no longer what is here.
    with pytest.raises(OperatorError, match="the database is not empty"):
        move.move(place, empty_url, quiet)
    with pytest.raises(OperatorError, match="no database on SQLite"):
        move.undo(Place(place.data_dir / "absent"))


KILLED = """
import os, signal, sys
from pathlib import Path
from intramuros.control.upkeep import move, restore
from intramuros.control.upkeep.attached import Attached, Place
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
{moment} = die
move.move(Place(Path(sys.argv[1])), sys.argv[2], lambda _: None)
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("moment", "arrived"), [("restore.check_same", False), ("Attached.close", True)]
)
def test_kill_9_moves_all_or_nothing(
    place: Place, empty_url: str, moment: str, arrived: bool
) -> None:
    before = sums_of(place)
    killed(KILLED.format(moment=moment), place.data_dir, empty_url)
    if arrived:  # but the mark may be lost with the process
        with closing(sqlite3.connect(place.data_dir / "intramuros.db")) as rows:
            assert rows.execute("PRAGMA user_version").fetchone() == (MOVED,)
            rows.execute("PRAGMA user_version=0")
    done = move.move(place, empty_url, quiet)
    assert done.before == arrived
    assert sums_of(Place(place.data_dir, empty_url)) == before


def test_what_is_in_the_way_is_named(place: Place, empty_url: str) -> None:
    with pytest.raises(OperatorError, match="to PostgreSQL only"):
        move.move(place, "sqlite:///x", quiet)
    server = KeyFiles(place.master_key)
    with pytest.raises(OperatorError, match="stop the server"):
        move.move(place, empty_url, quiet)
    server.release()
    with closing(sqlite3.connect(place.data_dir / "intramuros.db")) as rows, rows:
        rows.execute("UPDATE users SET name = 'a' || char(0) WHERE rowid = 2")
    with pytest.raises(OperatorError, match=r"table users \(row .1.*U\+0000"):
        move.move(place, empty_url, quiet)
    db = Database.open(empty_url)
    with db.engine.connect() as connection:
        assert whole.occupied(connection) is None
    db.close()


@pytest.fixture(scope="module")
def moved(
    tmp_path_factory: pytest.TempPathFactory, cluster: Cluster
) -> Iterator[tuple[Server, dict[str, object], Place]]:
    """A server on PostgreSQL, what it showed on SQLite, and where that still is."""
    home = tmp_path_factory.mktemp("moved")
    place = Place(used(home / "data"))
    with running(place.data_dir, model_scripts=str(SCRIPTS)) as server:
        before = shown(server)
    there = Place(place.data_dir, cluster.bare("moved"))
    move.move(place, there.url, quiet)
    with running(place.data_dir, model_scripts=str(SCRIPTS), database_url=there.url) as server:
        yield server, before, there


@pytest.mark.timeout(240)
def test_the_official_client_reads_everything_back(
    moved: tuple[Server, dict[str, object], Place],
) -> None:
    server, before, there = moved
    after = shown(server)
    assert set(after) == set(before)
    for name, value in before.items():
        assert after[name] == value, name
    assert verify(lines_of(there)).seq > 50


@pytest.mark.timeout(240)
def test_sessions_go_on_there(moved: tuple[Server, dict[str, object], Place]) -> None:
    server, before, _ = moved
    session_id, log = next(
        (name, value)
        for name, value in before.items()
        if isinstance(value, list)
        and any(event.get("type") == "agent.message" for event in value)
        and value[-1].get("type") == "session.status_idle"
    )
    with (
        Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0) as api,
        Site(server, api) as site,
    ):
        api.beta.sessions.events.send(session_id, events=[MESSAGE])
        more = site.wait(session_id, "session.status_idle", 2)
        assert [event.id for event in more[: len(log)]] == [event["id"] for event in log]
        made = site.session(initial_events=[MESSAGE])
        site.wait(made.id, "session.status_idle")
    answer = httpx2.get(f"{server.base_url}/readyz")
    assert answer.status_code == 200


@pytest.mark.timeout(240)
def test_logs_fold_to_the_states_that_were_kept(
    moved: tuple[Server, dict[str, object], Place], tmp_path: Path
) -> None:
    """Also in a backup that is made while the server serves."""
    _, _, there = moved
    made_of(there, tmp_path / "b")
    db = Database.open(there.url)
    with snapshots.reading(db) as connection:
        assert check_folds(connection) >= 4
    db.close()
    with snapshots.frozen(tmp_path / "b" / "database.sqlite") as connection:
        assert check_folds(connection) >= 4


def check_folds(connection: Connection) -> int:
    tx, count = Tx(connection), 0
    for row in connection.execute(select(sessions)).all():
        stored = load(row.state)
        empty = initial(
            stored.thread_id, self_hosted=stored.self_hosted, crewed=stored.crew is not None
        )
        state = reduce(fold, events.read(tx, row.id), empty)
        assert state.dump() == stored.dump()
        count += 1
    return count


@pytest.mark.timeout(240)
def test_audit_is_verified_and_exported_on_postgresql(
    moved: tuple[Server, dict[str, object], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, there = moved
    said: list[str] = []
    monkeypatch.setattr(audit_cli, "say", said.append)
    audit_cli.verify(None, None, there.url, None)
    (line,) = said
    name, count, head = line.split("\t")
    assert name == "control"
    assert int(count.split()[0]) > 50
    said.clear()
    audit_cli.verify(None, None, there.url, [head])
    said.clear()
    audit_cli.export(None, None, there.url)
    assert json.loads(said[0])["seq"] == 1
    with pytest.raises(audit_cli.ChainBroken, match="its end was cut off"):
        audit_cli.verify(None, None, there.url, ["0" * 64])
