import sqlite3

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import IntegrityError

from intramuros.control.store.drivers import DRIVERS, raw, wrapped
from intramuros.control.store.sqlite import SqliteDriver


def test_a_drivers_error_becomes_sqlalchemys_and_tells_no_values() -> None:
    error = wrapped(DRIVERS["sqlite"], "INSERT :x", sqlite3.IntegrityError("UNIQUE failed"))
    assert isinstance(error, IntegrityError)
    assert error.orig is not None
    assert str(error.orig) == "UNIQUE failed"
    assert "parameters" not in str(error)


def test_each_dialect_has_its_driver() -> None:
    assert isinstance(DRIVERS["sqlite"], SqliteDriver)
    with create_engine("sqlite://").connect() as connection:
        assert isinstance(raw(connection), sqlite3.Connection)
        with pytest.raises(KeyError):
            _ = DRIVERS["mysql"]
        connection.engine.dispose()
