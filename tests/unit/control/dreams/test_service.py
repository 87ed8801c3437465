from dataclasses import replace

import pytest
from sqlalchemy import select

from intramuros.control.catalog import service
from intramuros.control.catalog.kinds import MEMORY_STORE
from intramuros.control.dreams import rows
from intramuros.control.dreams.plan import Ask, Start
from intramuros.control.dreams.rows import NO_USAGE
from intramuros.control.dreams.service import MAX_BUSY, usage_of
from intramuros.control.identity.actor import Actor
from intramuros.control.store import leases
from intramuros.control.store.tables import audit
from intramuros.kernel.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    RateLimited,
)
from intramuros.protocol.resources.dreams import DreamCreate
from tests.fakes.dreams import Night


def test_R241_a_new_dream_is_offered_to_whoever_runs_it(night: Night) -> None:
    dream = night.begin(night.store(), night.talk())
    lease = leases.claim(night.tx, leases.DREAMS, "w", night.world.now_us, 1)
    assert lease is not None
    assert lease.key == dream.session_id
    (shown,) = night.dreams.present(night.tx, [dream])
    assert (shown["status"], shown["outputs"], shown["session_id"]) == ("pending", [], None)


def test_R236_R240_what_cannot_be_dreamed_of(night: Night) -> None:
    store, talk = night.store(), night.talk()
    for wrong in ((store, "sesn_none"), ("memstore_none", talk)):
        with pytest.raises(NotFound):
            night.begin(*wrong)
    elsewhere = replace(night.caller, workspace_id="wrkspc_other")
    there = DreamCreate.model_validate(
        {
            "inputs": [
                {"type": "sessions", "session_ids": [talk]},
                {"type": "memory_store", "memory_store_id": store},
            ],
            "model": "m",
        }
    )
    with pytest.raises(NotFound):
        night.dreams.create(night.tx, elsewhere, there)
    behavior = {"type": "update_existing", "memory_store_id": store}
    strong, night.caller = night.caller, replace(night.caller, scopes=frozenset())
    with pytest.raises(PermissionDenied):
        night.begin(store, talk, output_behavior=behavior)
    night.caller = strong
    first = night.begin(store, talk, output_behavior=behavior)
    with pytest.raises(Conflict, match=first.id):
        night.begin(store, talk, output_behavior=behavior)
    night.dreams.cancel(night.tx, night.caller, first.id)
    # Canceled, and yet not stopped.
    with pytest.raises(Conflict, match=first.id):
        night.begin(store, talk, output_behavior=behavior)
    rows.change(night.tx, first, stopped_us=1)
    night.begin(store, talk, output_behavior=behavior)
    actor = Actor(night.world.clock, night.world.ids, "wrkspc_test", "test")
    found = service.get(night.tx, "wrkspc_test", MEMORY_STORE, store)
    service.archive(night.tx, actor, found)
    with pytest.raises(InvalidRequest, match="archived"):
        night.begin(store, talk)


def test_one_workspace_cannot_pile_them_up(night: Night) -> None:
    store, talk = night.store(), night.talk()
    made = [night.begin(store, talk) for _ in range(MAX_BUSY)]
    with pytest.raises(RateLimited):
        night.begin(store, talk)
    rows.change(night.tx, made[0], stopped_us=1)
    night.begin(store, talk)


def test_R244_cancel(night: Night) -> None:
    dream = night.begin(night.store(), night.talk())
    with pytest.raises(NotFound):
        night.dreams.cancel(night.tx, replace(night.caller, workspace_id="other"), dream.id)
    canceled = night.dreams.cancel(night.tx, night.caller, dream.id)
    assert canceled.status == "canceled"
    assert canceled.ended_us is not None
    assert night.dreams.cancel(night.tx, night.caller, dream.id) == canceled
    for status in ("completed", "failed"):
        rows.change(night.tx, dream, status=status)
        with pytest.raises(InvalidRequest, match=status):
            night.dreams.cancel(night.tx, night.caller, dream.id)


def test_R245_archive(night: Night) -> None:
    dream = night.begin(night.store(), night.talk())
    for status in ("pending", "running"):
        rows.change(night.tx, dream, status=status)
        with pytest.raises(InvalidRequest, match=status):
            night.dreams.archive(night.tx, night.caller, dream.id)
    for status in ("completed", "failed", "canceled"):
        rows.change(night.tx, dream, status=status, archived_us=None)
        archived = night.dreams.archive(night.tx, night.caller, dream.id)
        assert (archived.status, archived.archived_us is not None) == (status, True)
        assert night.dreams.archive(night.tx, night.caller, dream.id) == archived


def test_usage_is_the_sessions_while_there_is_one(night: Night) -> None:
    dream = night.begin(night.store(a="x"), night.talk("hello"))
    night.until(dream, Ask)
    state = rows.states(night.tx, [dream.session_id])[dream.session_id]
    spent = replace(state, usage=replace(state.usage, input_tokens=7))
    assert usage_of(dream, spent) == {**NO_USAGE, "input_tokens": 7}
    assert usage_of(replace(dream, usage={"input_tokens": 3}), None) == {"input_tokens": 3}


def test_acts_are_audited(night: Night) -> None:
    dream = night.begin(night.store(), night.talk())
    night.until(dream, Start)
    night.dreams.cancel(night.tx, night.caller, dream.id)
    night.dreams.archive(night.tx, night.caller, dream.id)
    kinds = [row.kind for row in night.tx.execute(select(audit.c.kind).order_by(audit.c.seq))]
    assert [k for k in kinds if k.startswith("dream.")] == [
        "dream.create", "dream.cancel", "dream.archive",
    ]  # fmt: skip
