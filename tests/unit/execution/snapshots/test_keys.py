import json
from pathlib import Path

import pytest

from intramuros.execution.snapshots.keys import Keyring
from intramuros.execution.snapshots.sealed import Damaged
from intramuros.kernel.errors import OperatorError


def test_the_file_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "made/keys.json"
    sealed = Keyring.open(path).seal(b"x", "here")
    assert path.stat().st_mode & 0o777 == 0o600
    assert Keyring.open(path).open_sealed(sealed, "here") == b"x"
    assert b"x" not in sealed[20:] or len(sealed) == 37


def test_what_was_sealed_opens_under_its_name_only(tmp_path: Path) -> None:
    ring = Keyring.open(tmp_path / "keys")
    sealed = ring.seal(b"value", "snapshots/a")
    for bad, about in (
        (sealed, "snapshots/b"),
        (sealed[:-1], "snapshots/a"),
        (b"", "snapshots/a"),
        (sealed[:8], "snapshots/a"),
        (bytes([sealed[0] ^ 1]) + sealed[1:], "snapshots/a"),
        (sealed[:-1] + bytes([sealed[-1] ^ 1]), "snapshots/a"),
    ):
        with pytest.raises(Damaged):
            ring.open_sealed(bad, about)


def test_a_new_key_seals_and_the_old_still_open_until_they_are_forgotten(tmp_path: Path) -> None:
    ring = Keyring.open(tmp_path / "keys")
    old = ring.seal(b"old", "n")
    ring.rotate()
    new = ring.seal(b"new", "n")
    assert old[:8] != new[:8]
    again = Keyring.open(tmp_path / "keys")
    assert (again.open_sealed(old, "n"), again.open_sealed(new, "n")) == (b"old", b"new")
    assert (again.forget_old(), again.forget_old()) == (1, 0)
    with pytest.raises(Damaged, match="key that this worker does not have"):
        Keyring.open(tmp_path / "keys").open_sealed(old, "n")
    assert again.open_sealed(new, "n") == b"new"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", json.dumps({"keys": []}), json.dumps({"keys": [["00", "AA=="]]})]
)
def test_a_file_that_holds_no_keys_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(OperatorError):
        Keyring.open(path)
    assert path.read_text() == content


def test_a_file_open_to_others_or_out_of_reach_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    Keyring.open(path)
    path.chmod(0o640)
    with pytest.raises(OperatorError, match="open to others"):
        Keyring.open(path)
    with pytest.raises(OperatorError, match="cannot use"):
        Keyring.open(path / "below")
