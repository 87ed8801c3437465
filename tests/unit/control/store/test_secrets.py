import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from intramuros.control.store.db import Tx
from intramuros.control.store.secrets import (
    Sealer,
    ensure_secret,
    load_master_key,
    read_secret_file,
    write_secret_file,
)
from intramuros.control.store.tables import secrets
from intramuros.kernel.errors import OperatorError

MASTER = bytes(range(32))


@given(value=st.binary(max_size=200), name=st.text(min_size=1, max_size=20))
def test_what_was_sealed_opens_under_its_own_name_only(value: bytes, name: str) -> None:
    sealer = Sealer(MASTER, os.urandom)
    sealed = sealer.seal(name, value)
    assert sealer.open(name, sealed) == value
    assert value not in sealed or len(value) < 4
    for other, text in ((name + "x", sealed), (name, sealed[:-1]), (name, b"\x02" + sealed[1:])):
        with pytest.raises(OperatorError, match="does not open"):
            sealer.open(other, text)
    with pytest.raises(OperatorError):
        Sealer(bytes(32), os.urandom).open(name, sealed)


@given(noise=st.binary(max_size=100))
def test_noise_never_opens(noise: bytes) -> None:
    with pytest.raises(OperatorError):
        Sealer(MASTER, os.urandom).open("x", noise)


def test_sealing_twice_gives_different_text() -> None:
    sealer = Sealer(MASTER, os.urandom)
    assert sealer.seal("x", b"value") != sealer.seal("x", b"value")


def test_a_secret_is_made_once_and_kept_sealed(tx: Tx) -> None:
    sealer = Sealer(MASTER, os.urandom)
    first = ensure_secret(tx, sealer, "signing", lambda: b"the private key", 1)
    again = ensure_secret(tx, sealer, "signing", lambda: b"another", 2)
    assert first == again == b"the private key"
    assert b"private key" not in tx.scalar(select(secrets.c.sealed))


def test_master_keys_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "master-key"
    first = load_master_key(path, os.urandom)
    assert len(first) == 32
    assert load_master_key(path, os.urandom) == first


@pytest.mark.parametrize("text", ["", "not base64!", "c2hvcnQ="])
def test_broken_master_keys_are_explained(tmp_path: Path, text: str) -> None:
    path = tmp_path / "master-key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(OperatorError, match="no master key"):
        load_master_key(path, os.urandom)


def test_secret_files_are_never_overwritten_and_leave_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_secret_file(path, "first")
    write_secret_file(path, "second")
    assert read_secret_file(path) == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_secret_files_that_others_may_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert read_secret_file(path) is None
    path.write_text("x")
    path.chmod(0o640)
    with pytest.raises(OperatorError, match="chmod 600"):
        read_secret_file(path)
    with pytest.raises(OperatorError, match="cannot write"):
        write_secret_file(tmp_path / "nowhere" / "key", "x")
