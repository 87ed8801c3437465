from dataclasses import replace
from pathlib import Path

import pytest

from intramuros.execution.snapshots.catalogue import (
    EXPIRED,
    Catalogue,
    Head,
    Manifest,
    key_of,
    new_id,
    new_key,
)
from intramuros.execution.snapshots.keys import Keyring
from intramuros.execution.snapshots.sealed import Damaged
from intramuros.execution.snapshots.shelf import ObjectGone, Shelf


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(Shelf.open(str(tmp_path / "shelf")), Keyring.open(tmp_path / "keys"))


def stored(catalogue: Catalogue, session_id: str, **fields: object) -> Manifest:
    made = Manifest(new_id(), session_id, "w", 5.0, "files", 1, 2, 3, new_key(), ("a loss",))
    made = replace(made, **fields)
    writer = catalogue.shelf.writer(f"data/{made.id}")
    writer.write(b"x")
    writer.commit()
    catalogue.add(made)
    return made


def test_a_manifest_comes_back_and_shows_no_key(catalogue: Catalogue, tmp_path: Path) -> None:
    made = stored(catalogue, "sesn_a")
    assert catalogue.manifest(made.id) == made
    assert len(key_of(made)) == 32
    assert "key" not in made.public()
    assert made.public()["lost"] == ("a loss",)
    raw = (tmp_path / "shelf/snapshots" / made.id).read_bytes()
    assert b"sesn_a" not in raw
    for wrong in ("snap_none", "../keys", "snap_../x", ""):
        with pytest.raises(ObjectGone):
            catalogue.manifest(wrong)


def test_the_highest_number_counts_and_none_is_written_twice(catalogue: Catalogue) -> None:
    assert catalogue.head("s") is None
    one, two = stored(catalogue, "s"), stored(catalogue, "s")
    assert catalogue.advance("s", one.id) == Head(1, one.id)
    assert catalogue.advance("s", two.id) == Head(2, two.id) == catalogue.head("s")
    names = catalogue.shelf.names
    # Two workers that looked at the same moment: the second takes the next number.
    catalogue.shelf.names = lambda prefix: names(prefix)[:1]  # type: ignore[method-assign]
    assert catalogue.advance("s", one.id) == Head(3, one.id)


def test_nothing_can_be_moved_to_another_name(catalogue: Catalogue, tmp_path: Path) -> None:
    one, two = stored(catalogue, "a"), stored(catalogue, "b")
    catalogue.advance("a", one.id)
    catalogue.advance("b", two.id)
    notes = sorted((tmp_path / "shelf/sessions").rglob("0*"))
    notes[0].write_bytes(notes[1].read_bytes())
    manifests = tmp_path / "shelf/snapshots"
    (manifests / one.id).write_bytes((manifests / two.id).read_bytes())
    assert {"a", "b"} == {s for s in "ab" if _damaged(catalogue, s) or catalogue.head(s)}
    assert sum(_damaged(catalogue, session_id) for session_id in "ab") == 1
    with pytest.raises(Damaged):
        catalogue.manifest(one.id)
    assert [m.id for m in catalogue.manifests()] == [two.id]


def _damaged(catalogue: Catalogue, session_id: str) -> bool:
    try:
        catalogue.head(session_id)
    except Damaged:
        return True
    return False


def test_what_was_replaced_goes_and_what_has_a_name_stays(catalogue: Catalogue) -> None:
    old, named, new = (
        stored(catalogue, "s"),
        stored(catalogue, "s", name="kept"),
        stored(catalogue, "s"),
    )
    foreign = stored(catalogue, "other")
    for made in (foreign, old, named):
        catalogue.advance("s", made.id)
    catalogue.mark_woken("s", Head(3, named.id))
    head = catalogue.advance("s", new.id)
    catalogue.retire("s", head)
    assert {m.id for m in catalogue.manifests()} == {foreign.id, named.id, new.id}
    assert catalogue.shelf.names("data") == sorted(f"data/{m.id}" for m in (foreign, named, new))
    assert catalogue.head("s") == head
    assert catalogue.shelf.names("awake") == []
    catalogue.retire("s", head)
    assert catalogue.head("s") == head


def test_who_woke_is_known(catalogue: Catalogue) -> None:
    head = catalogue.advance("s", stored(catalogue, "s").id)
    assert not catalogue.was_woken("s", head)
    catalogue.mark_woken("s", head)
    catalogue.mark_woken("s", head)
    assert catalogue.was_woken("s", head)
    assert not catalogue.was_woken("t", head)


def test_a_deleted_session_leaves_what_has_a_name(catalogue: Catalogue) -> None:
    own, named, other = (
        stored(catalogue, "s"),
        stored(catalogue, "s", name="kept"),
        stored(catalogue, "t"),
    )
    head = catalogue.advance("s", own.id)
    catalogue.mark_woken("s", head)
    catalogue.forget("s")
    catalogue.forget("never seen")
    assert {m.id for m in catalogue.manifests()} == {named.id, other.id}
    assert catalogue.head("s") is None
    assert catalogue.shelf.names("awake") == []


def test_sessions_are_told_when_what_they_sleep_in_expires(catalogue: Catalogue) -> None:
    made = stored(catalogue, "s", name="both")
    catalogue.advance("s", made.id)
    catalogue.advance("t", made.id)
    catalogue.advance("u", made.id)
    catalogue.advance("u", stored(catalogue, "u").id)
    assert sorted(catalogue.sleeping_in(made.id)) == ["s", "t"]
    catalogue.expire(made)
    for session_id in "st":
        assert catalogue.head(session_id) == Head(2, EXPIRED)
    with pytest.raises(ObjectGone):
        catalogue.manifest(made.id)


def test_all_is_sealed_anew_under_a_new_key(tmp_path: Path) -> None:
    keys = Keyring.open(tmp_path / "keys")
    catalogue = Catalogue(Shelf.open(str(tmp_path / "shelf")), keys)
    made = stored(catalogue, "s")
    head = catalogue.advance("s", made.id)
    catalogue.mark_woken("s", head)
    keys.rotate()
    assert catalogue.reseal() == 3
    keys.forget_old()
    again = Catalogue(catalogue.shelf, Keyring.open(tmp_path / "keys"))
    assert (again.manifest(made.id), again.head("s")) == (made, head)
    assert again.was_woken("s", head)


def test_data_without_a_manifest_is_swept_once_it_is_old(catalogue: Catalogue) -> None:
    made = stored(catalogue, "s")
    for name in ("data/orphan", "data/fresh"):
        writer = catalogue.shelf.writer(name)
        writer.write(b"x")
        writer.commit()
    assert catalogue.sweep(before=0) == 0
    assert catalogue.sweep(before=1e12) == 2
    assert catalogue.shelf.names("data") == [f"data/{made.id}"]


def test_a_name_keeps_a_snapshot(catalogue: Catalogue) -> None:
    made = stored(catalogue, "s")
    assert (
        catalogue.rename(made, "mine") == catalogue.manifest(made.id) == replace(made, name="mine")
    )
