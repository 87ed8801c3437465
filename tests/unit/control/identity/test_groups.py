import pytest

from intramuros.control.identity import groups
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.people import Group, GroupMember


def test_what_is_shown(tx: Tx, actor: Actor, ada: str) -> None:
    made = groups.create(tx, actor, "G")
    Group.model_validate(made)
    GroupMember.model_validate(groups.add_member(tx, actor, made["id"], ada))


def test_a_list_of_equal_times_is_walked_once(tx: Tx, actor: Actor) -> None:
    made = [groups.create(tx, actor, "G")["id"] for _ in range(5)]
    walked, after, more = [], None, True
    while more:
        rows, more = groups.find(tx, 2, after)
        walked += [row.id for row in rows]
        after = (rows[-1].created_us, rows[-1].id)
    assert sorted(walked) == sorted(made)


def test_times_never_step_back(tx: Tx, actor: Actor, clock: ManualClock) -> None:
    made = groups.create(tx, actor, "G")
    clock.advance(-60)
    assert groups.rename(tx, actor, made["id"], "H")["updated_at"] >= made["updated_at"]


def test_there_is_an_end(tx: Tx, actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MAX_GROUPS", 1)
    groups.create(tx, actor, "G")
    with pytest.raises(InvalidRequest, match="at most 1"):
        groups.create(tx, actor, "G")


def test_roles_are_all_or_nothing(tx: Tx, actor: Actor) -> None:
    made = groups.create(tx, actor, "G")["id"]
    with pytest.raises(NotFound):
        groups.set_roles(tx, actor, made, ["rbac_role_developer", "rbac_role_no"])
    assert groups.row_of(tx, made).role_ids == []
    given = groups.set_roles(tx, actor, made, ["rbac_role_developer"] * 2)
    assert given["role_ids"] == ["rbac_role_developer"]
    assert groups.set_roles(tx, actor, made, [])["role_ids"] == []
