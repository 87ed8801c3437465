"""Which replica has what a list must hold, and which has it no longer or never had."""

import psycopg
import pytest
from psycopg import errors

from intramuros.control.store import standing
from intramuros.control.store.arrival import Position
from intramuros.control.store.drivers import Elsewhere
from intramuros.control.store.standing import Standing

HERE = Position(system=7, timeline=2, offset=100)


@pytest.mark.parametrize(
    ("position", "has"),
    [
        (HERE, True),
        (Position(7, 2, 101), True),
        (Position(7, 2, 99), False),
        (Position(7, 1, 500), False),  # further, on a history that was left
        (Position(7, 3, 500), False),
        (Position(8, 2, 500), False),
        (None, False),
    ],
    ids=["same", "further", "behind", "old-history", "new-history", "stranger", "silent"],
)
def test_it_has_what_it_replayed_on_the_same_history(position: Position | None, has: bool) -> None:
    assert Standing(True, "then", position).has(HERE) is has


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (Standing(False, "then", HERE), standing.PROMOTED),
        (Standing(True, "then", Position(8, 2, 100)), standing.FOREIGN),
        (Standing(True, "then", None), standing.FOREIGN),
        (Standing(True, "then", Position(7, 1, 900)), standing.FORKED),
        (Standing(True, "then", Position(7, 3, 900)), standing.FORKED),
    ],
    ids=["promoted", "stranger", "silent", "old-history", "new-history"],
)
def test_it_is_said_why_a_server_is_none_of_ours(found: Standing, reason: str) -> None:
    with pytest.raises(Elsewhere) as raised:
        found.check(HERE)
    assert raised.value.reason == reason
    assert standing.FIXES[reason]


def test_one_that_is_behind_is_still_ours() -> None:
    Standing(True, "then", Position(7, 2, 0)).check(HERE)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (psycopg.OperationalError("the connection is lost"), standing.AWAY),
        (psycopg.DataError("found by the driver"), standing.CONFLICT),
        (errors.SerializationFailure(), standing.CONFLICT),
        (errors.DeadlockDetected(), standing.CONFLICT),
        (errors.QueryCanceled(), standing.SLOW),
        (errors.AdminShutdown(), standing.AWAY),
        (errors.CannotConnectNow(), standing.AWAY),
        (errors.TooManyConnections(), standing.AWAY),
        (errors.InsufficientPrivilege(), standing.REFUSED),
        (errors.UndefinedTable(), standing.REFUSED),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_each_error_has_a_word(error: psycopg.Error, reason: str) -> None:
    assert standing.reason_of(error) == reason
    assert reason in standing.OUTCOMES
