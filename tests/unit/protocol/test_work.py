from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from intramuros.kernel.errors import Conflict, DomainError, InvalidRequest, PreconditionFailed
from intramuros.protocol import work
from intramuros.protocol.work import LEASED, Beat, Item, WorkState

SECOND = work.SECOND_US
NEW = Item("work_1", "env_1", "sesn_1", 1)


def beat(item: Item, now_us: int, expected: str | None, ttl_s: int | None = None) -> Item:
    extended, _ = work.heartbeat(item, Beat(now_us, f"t{now_us}", expected, ttl_s))
    return extended


def starting() -> Item:
    return work.acknowledge(work.hand_out(NEW, 5), 10)


def active() -> Item:
    return beat(starting(), 20, work.NO_HEARTBEAT)


def stopping() -> Item:
    return work.stop(active(), 30, force=False)


@pytest.mark.rule("c9_13")
def test_a_poll_claims_without_changing_the_state() -> None:
    claimed = work.hand_out(NEW, 5)
    assert (claimed.state, claimed.claimed_us) == (WorkState.QUEUED, 5)


@pytest.mark.rule("c9_13", "c9_19")
def test_ack_takes_an_item_off_the_queue_and_starts_its_lease() -> None:
    item = starting()
    assert (item.state, item.acknowledged_us, item.claimed_us) == (WorkState.STARTING, 10, None)
    # Longer than a worker goes on without one heartbeat (9.29), and no longer than need be.
    assert item.expires_us == 10 + 100 * SECOND


@pytest.mark.parametrize("item", [starting(), active(), stopping()])
@pytest.mark.rule("c9_17")
def test_amb_11_a_second_ack_is_a_conflict_that_is_not_retried(item: Item) -> None:
    with pytest.raises(Conflict) as caught:
        work.acknowledge(item, 11)
    assert caught.value.hints.should_retry is False


def test_amb_6_the_first_heartbeat_starts_the_work() -> None:
    item = active()
    assert (item.state, item.started_us, item.heartbeat) == (WorkState.ACTIVE, 20, "t20")


def test_9_22_the_last_heartbeat_must_be_echoed_exactly() -> None:
    item = beat(active(), 30, "t20")
    assert item.heartbeat == "t30"
    for expected in ("t20", "t30 ", "", work.NO_HEARTBEAT):
        with pytest.raises(PreconditionFailed) as caught:
            beat(item, 40, expected)
        assert caught.value.hints.code == "heartbeat_precondition_failed"
        assert caught.value.hints.details["current_state"] == {
            "state": "active",
            "ttl_seconds": 300,
            "lease_extended": False,
            "last_heartbeat": "t30",
        }


def test_9_24_a_heartbeat_without_expectation_is_unconditional() -> None:
    assert beat(active(), 30, None).heartbeat == "t30"


def test_amb_6_nobody_holds_a_queued_item() -> None:
    for expected in (work.NO_HEARTBEAT, None):
        with pytest.raises(PreconditionFailed):
            beat(work.hand_out(NEW, 5), 10, expected)


@pytest.mark.parametrize(
    ("desired", "effective"), [(None, 300), (1, 10), (-5, 10), (10, 10), (42, 42), (9999, 600)]
)
def test_amb_7_lifetimes_are_clamped(desired: int | None, effective: int) -> None:
    item = beat(starting(), 20, work.NO_HEARTBEAT, desired)
    assert (item.ttl_s, item.expires_us) == (effective, 20 + effective * SECOND)


def test_a_later_heartbeat_keeps_the_lifetime_asked_for_before() -> None:
    item = beat(starting(), 20, work.NO_HEARTBEAT, 60)
    assert beat(item, 30, "t20").ttl_s == 60


@pytest.mark.parametrize("item", [stopping(), work.stop(active(), 30, force=True)])
def test_9_23_amb_8_a_stopping_item_answers_any_heartbeat_and_extends_nothing(item: Item) -> None:
    after, extended = work.heartbeat(item, Beat(99, "t99", "whatever"))
    assert not extended
    assert (after.state, after.heartbeat, after.expires_us) == (
        item.state,
        item.heartbeat,
        item.expires_us,
    )


@pytest.mark.rule("c9_34")
def test_amb_12_where_a_stop_leads() -> None:
    assert work.stop(NEW, 5, force=False).state is WorkState.STOPPED
    assert work.stop(starting(), 15, force=False).state is WorkState.STOPPING
    item = work.stop(active(), 30, force=False)
    assert (item.state, item.stop_requested_us, item.stopped_us) == (WorkState.STOPPING, 30, None)
    assert work.stop(item, 40, force=False) == item
    ended = work.stop(item, 50, force=True)
    assert (ended.state, ended.stop_requested_us, ended.stopped_us) == (WorkState.STOPPED, 30, 50)
    assert ended.expires_us is None


def test_9_35_a_stopped_item_cannot_be_stopped() -> None:
    ended = work.stop(active(), 30, force=True)
    for force in (True, False):
        with pytest.raises(Conflict):
            work.stop(ended, 40, force=force)


@pytest.mark.rule("c9_33")
def test_amb_10_a_lapsed_lease_returns_the_item_as_new() -> None:
    item = beat(starting(), 20, work.NO_HEARTBEAT, 10)
    with pytest.raises(Conflict):
        work.lapse(item, 20 + 10 * SECOND - 1)
    assert work.lapse(item, 20 + 10 * SECOND) == NEW
    with pytest.raises(PreconditionFailed):
        beat(work.lapse(item, 20 + 10 * SECOND), 21, "t20")


def test_amb_10_a_lapsed_lease_completes_a_stop() -> None:
    item = stopping()
    assert work.lapse(item, item.expires_us or 0).state is WorkState.STOPPED


def test_amb_14_a_sleeping_session_wakes_before_its_worker_has_heard() -> None:
    dozing = work.stop(active(), 30, force=False, dormant=True)
    assert work.revive(dozing) == replace(active(), stop_requested_us=None)
    told, _ = work.heartbeat(dozing, Beat(40, "t40", "t20"))
    assert work.revive(told) is None


def test_a_stop_that_somebody_asked_for_is_not_taken_back() -> None:
    assert work.revive(stopping()) is None
    dozing = work.stop(active(), 30, force=False, dormant=True)
    assert work.revive(work.stop(dozing, 35, force=False)) is None
    assert work.revive(active()) is None


def test_3_10_metadata_is_a_patch_with_limits_on_the_result() -> None:
    item = work.patch_metadata(NEW, {"a": "1", "b": "2"})
    assert work.patch_metadata(item, {"a": None, "c": "3"}).metadata == {"b": "2", "c": "3"}
    full = work.patch_metadata(NEW, {str(n): "x" for n in range(16)})
    assert work.patch_metadata(full, {"0": None, "new": "x"}).metadata["new"] == "x"
    with pytest.raises(InvalidRequest) as caught:
        work.patch_metadata(full, {"new": "x", "k" * 65: "y", "long": "z" * 513})
    assert caught.value.hints.code == "invalid_metadata"
    assert "19 pairs" in caught.value.message
    assert "kkk" in caught.value.message
    assert "'long'" in caught.value.message


class Moves(RuleBasedStateMachine):
    """Any order of moves keeps an item's parts consistent, and stopped is final."""

    def __init__(self) -> None:
        super().__init__()
        self.item = NEW
        self.now = 1

    def attempt(self, moved: object) -> None:
        if isinstance(moved, Item):
            if self.item.state is WorkState.STOPPED:
                assert moved.state is WorkState.STOPPED
            self.item = moved

    @rule(step=st.integers(1, 700 * SECOND))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule(
        move=st.sampled_from(["ack", "stop", "force", "doze", "wake", "lapse"]),
    )
    def act(self, move: str) -> None:
        moves = {
            "ack": lambda: work.acknowledge(self.item, self.now),
            "stop": lambda: work.stop(self.item, self.now, force=False),
            "force": lambda: work.stop(self.item, self.now, force=True),
            "doze": lambda: work.stop(self.item, self.now, force=False, dormant=True),
            "wake": lambda: work.revive(self.item),
            "lapse": lambda: work.lapse(self.item, self.now),
        }
        with suppress(DomainError):
            self.attempt(moves[move]())

    @rule(echo=st.booleans(), ttl_s=st.none() | st.integers(-10, 2000))
    def heartbeat(self, echo: bool, ttl_s: int | None) -> None:
        expected = (self.item.heartbeat or work.NO_HEARTBEAT) if echo else "stale"
        try:
            after, extended = work.heartbeat(
                self.item, Beat(self.now, str(self.now), expected, ttl_s)
            )
        except PreconditionFailed:
            assert self.item.state is WorkState.QUEUED or not echo
            return
        assert extended == (after.state is WorkState.ACTIVE)
        self.attempt(after)

    @invariant()
    def parts_agree(self) -> None:
        item = self.item
        assert (item.expires_us is not None) == (item.state in LEASED)
        assert (item.stopped_us is not None) == (item.state is WorkState.STOPPED)
        if item.state is WorkState.QUEUED:
            assert (item.acknowledged_us, item.started_us, item.heartbeat) == (None, None, None)
        if item.state is WorkState.ACTIVE:
            assert item.heartbeat is not None
            assert item.started_us is not None
        if item.state in (WorkState.QUEUED, WorkState.STARTING, WorkState.ACTIVE):
            assert item.stop_requested_us is None


TestMoves = Moves.TestCase
