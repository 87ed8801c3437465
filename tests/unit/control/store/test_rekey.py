import os
from pathlib import Path

import pytest
from sqlalchemy import LargeBinary, select

from intramuros.control.store import rekey
from intramuros.control.store.db import Tx
from intramuros.control.store.rekey import SEALED, KeyFiles
from intramuros.control.store.secrets import Sealer, ensure_secret
from intramuros.control.store.tables import metadata, secrets
from intramuros.kernel.errors import OperatorError

OLD, NEW = Sealer(bytes(32), os.urandom), Sealer(b"n" * 32, os.urandom)
# Sealed by a data key, which is sealed by the master key.
BY_DATA_KEYS = {("vault_secrets", "sealed"), ("repository_tokens", "sealed")}
# No secrets.
PLAIN = {("memory_versions", "content")}


def test_every_sealed_column_is_known() -> None:
    columns = {
        (table.name, column.name)
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    }
    known = {(sealed.table.name, sealed.value.name) for sealed in SEALED}
    assert columns == known | BY_DATA_KEYS | PLAIN


def test_what_was_sealed_is_sealed_anew(tx: Tx) -> None:
    ensure_secret(tx, OLD, "a", lambda: b"value a", 1)
    assert rekey.reseal(tx, OLD, NEW) == 1
    assert NEW.open("a", tx.scalar(select(secrets.c.sealed))) == b"value a"
    with pytest.raises(OperatorError):
        rekey.reseal(tx, OLD, NEW)


def test_the_database_tells_which_key_is_in_force(tx: Tx) -> None:
    assert rekey.in_force(tx, OLD, NEW) is OLD
    ensure_secret(tx, OLD, "a", lambda: b"value a", 1)
    assert rekey.in_force(tx, OLD, None) is OLD
    assert rekey.in_force(tx, OLD, NEW) is OLD
    rekey.reseal(tx, OLD, NEW)
    assert rekey.in_force(tx, OLD, NEW) is NEW
    with pytest.raises(OperatorError):
        rekey.in_force(tx, OLD, Sealer(b"x" * 32, os.urandom))


def test_many_use_the_key_but_one_changes_it(tmp_path: Path) -> None:
    path = tmp_path / "master-key"
    one, two = KeyFiles(path), KeyFiles(path)
    one.release()
    with pytest.raises(OperatorError, match="stop the server"):
        KeyFiles(path, alone=True)
    two.release()
    alone = KeyFiles(path, alone=True)
    with pytest.raises(OperatorError, match="rotate-key"):
        KeyFiles(path)
    alone.release()


def test_a_successor_takes_the_place_of_the_key(tmp_path: Path) -> None:
    files = KeyFiles(tmp_path / "master-key")
    old, successor = files.current(), files.make_successor()
    sealed = successor.seal("a", b"v")
    assert files.successor() is not None
    files.promote()
    assert files.successor() is None
    assert files.current().open("a", sealed) == b"v"
    with pytest.raises(OperatorError):
        old.open("a", sealed)
    files.promote()  # another process was first
    files.release()
