from datetime import timedelta
from typing import Any

import pytest

from intramuros.control.catalog import profiles
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock, rfc3339
from intramuros.protocol.resources.profiles import ProfileCreate, ProfileUpdate
from tests.unit.control.conftest import WORKSPACE


@pytest.fixture
def actor(clock: ManualClock, ids: IdFactory) -> Actor:
    return Actor(clock, ids, WORKSPACE, "test")


def made(tx: Tx, actor: Actor, *, legacy: bool = False, **sent: Any) -> profiles.Resource:
    return profiles.create(tx, actor, ProfileCreate.model_validate(sent), legacy=legacy)


def test_R290_R291_both_shapes_show_one_profile(tx: Tx, actor: Actor) -> None:
    profile = made(tx, actor, legacy=True, external_id="row-7")
    old, new = (profiles.present(profile, legacy=legacy) for legacy in (True, False))
    assert old["external_id"] == new["external_user_details"]["reference_id"] == "row-7"
    assert "external_user_details" not in old
    assert "external_id" not in new


def test_R292_times_may_be_a_minute_ahead(tx: Tx, actor: Actor) -> None:
    now = actor.clock.now()
    for ahead, fine in ((timedelta(minutes=1), True), (timedelta(seconds=61), False)):
        details = {"onboarded_at": rfc3339(now + ahead)}
        if fine:
            made(tx, actor, external_user_details=details)
            continue
        with pytest.raises(InvalidRequest, match="ahead"):
            made(tx, actor, external_user_details=details)


def test_R292_clearing_is_refused_in_both_shapes(tx: Tx, actor: Actor) -> None:
    profile = made(tx, actor)
    wrong: list[tuple[dict[str, Any], bool]] = [
        ({"external_user_details": {"country": None}}, False),
        ({"external_user_details": None}, False),
        ({"external_user_onboarded_at": None}, True),
    ]
    for sent, legacy in wrong:
        request = ProfileUpdate.model_validate(sent)
        with pytest.raises(InvalidRequest, match="not cleared"):
            profiles.update(tx, actor, profile.id, request, legacy=legacy)


@pytest.mark.parametrize("by", ["created_at", "name"])
@pytest.mark.parametrize("way", ["asc", "desc"])
def test_pages_join_to_one_list(tx: Tx, actor: Actor, by: Any, way: Any) -> None:
    for name in ("b", None, "A", "a", None, "É"):
        made(tx, actor, name=name)
    order = profiles.Order(by, way)
    whole, more = profiles.find(tx, WORKSPACE, order, 10)
    assert (len(whole), more) == (6, False)
    joined: list[profiles.Resource] = []
    more = True
    while more:
        page, more = profiles.find(tx, WORKSPACE, order, 2)
        joined += page
        order = profiles.Order(by, way, profiles.position(page[-1], order))
    assert joined == whole
    if by == "name":
        assert [profile.body["name"] for profile in whole[-2:]] == [None, None]
