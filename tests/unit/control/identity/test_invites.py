from typing import Any

import pytest

from intramuros.control.identity import invites, people
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.invites import Filter
from intramuros.control.store.db import Tx
from intramuros.control.store.spans import Span
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import ManualClock, to_micros
from intramuros.protocol.resources.people import Invite, InviteCreate

DAY_S = 24 * 3600


def invite(tx: Tx, actor: Actor, email: str = "new@x.test") -> Any:
    return invites.create(tx, actor, InviteCreate(email=email, role="user"))


def listed(tx: Tx, clock: ManualClock, *statuses: str) -> list[str]:
    now_us = to_micros(clock.now())
    found, _ = invites.find(tx, Filter(statuses=statuses or None), Span(10), now_us)
    return [shown["status"] for shown in found]


def test_R364_an_invite_expires_after_21_days(tx: Tx, actor: Actor, clock: ManualClock) -> None:
    made = invite(tx, actor)
    Invite.model_validate(made)
    clock.advance(21 * DAY_S - 1)
    assert listed(tx, clock) == ["pending"]
    with pytest.raises(InvalidRequest) as caught:
        invite(tx, actor, "NEW@X.test")
    assert caught.value.hints.code == "invite_already_exists"
    clock.advance(1)
    assert listed(tx, clock) == ["expired"]
    assert listed(tx, clock, "pending", "accepted") == []
    for act in (
        lambda: invites.accept(tx, actor, made["id"], "N"),
        lambda: invites.remove(tx, actor, made["id"]),
    ):
        with pytest.raises(InvalidRequest, match="expired, not pending"):
            act()
    second = invite(tx, actor)
    assert invites.accept(tx, actor, second["id"], "N")["email"] == "new@x.test"
    assert listed(tx, clock, "accepted", "expired") == ["accepted", "expired"]


def test_an_invite_to_a_member_is_never_accepted(tx: Tx, actor: Actor) -> None:
    made = invite(tx, actor)
    people.add(tx, actor, "New@x.test", "N", "user")
    with pytest.raises(InvalidRequest) as caught:
        invites.accept(tx, actor, made["id"], "N")
    assert caught.value.hints.code == "already_member"


def test_members_and_the_invited_count_together(
    tx: Tx, actor: Actor, ada: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "MAX_MEMBERS", 2)
    invite(tx, actor, "one@x.test")
    with pytest.raises(InvalidRequest) as caught:
        invite(tx, actor, "two@x.test")
    assert caught.value.hints.code == "org_member_limit_exceeded"
    clock.advance(21 * DAY_S)
    invite(tx, actor, "two@x.test")
