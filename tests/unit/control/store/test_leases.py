"""The queue of turns, against a model: no lost wake-up, never two holders."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Connection, create_engine

from intramuros.control.store import leases
from intramuros.control.store.db import Tx
from intramuros.control.store.leases import LostLease
from intramuros.control.store.tables import metadata

Q = leases.TURNS
SECOND = 1_000_000
KEYS = ("a", "b", "c")


def fresh() -> Connection:
    engine = create_engine("sqlite://")
    connection = engine.connect()
    metadata.create_all(connection)
    return connection


def test_an_offer_is_claimed_once(tx: Tx) -> None:
    leases.offer(tx, Q, "a", 10)
    leases.offer(tx, Q, "a", 11)
    lease = leases.claim(tx, Q, "me", 12, SECOND)
    assert lease == leases.Lease(Q, "a", 1, 12 + SECOND)
    assert leases.claim(tx, Q, "you", 12, SECOND) is None
    assert leases.finish(tx, lease, 13) is False
    assert leases.claim(tx, Q, "you", 14, SECOND) is None


def test_an_offer_while_held_is_not_lost(tx: Tx) -> None:
    leases.offer(tx, Q, "a", 10)
    lease = leases.claim(tx, Q, "me", 10, SECOND)
    leases.offer(tx, Q, "a", 11)
    assert leases.claim(tx, Q, "you", 12, SECOND) is None
    assert leases.finish(tx, lease, 13) is True
    assert leases.claim(tx, Q, "you", 13, SECOND).epoch == 2


def test_one_key_is_taken_unless_somebody_holds_it(tx: Tx) -> None:
    assert leases.take(tx, Q, "a", "me", 10, SECOND) is None, "never offered"
    leases.offer(tx, Q, "a", 10)
    leases.offer(tx, Q, "b", 10)
    first = leases.take(tx, Q, "a", "me", 11, SECOND)
    assert first == leases.Lease(Q, "a", 1, 11 + SECOND)
    assert leases.take(tx, Q, "a", "you", 12, SECOND) is None
    leases.offer(tx, Q, "a", 13)
    assert leases.take(tx, Q, "a", "you", 13, SECOND) is None
    assert leases.finish(tx, first, 14) is True
    second = leases.take(tx, Q, "a", "you", 15, SECOND)
    assert second == leases.Lease(Q, "a", 2, 15 + SECOND)
    leases.finish(tx, second, 16)
    assert leases.take(tx, Q, "a", "me", 17, SECOND).epoch == 3, "nobody offered it"
    assert leases.claim(tx, Q, "me", 18, SECOND).key == "b"


def test_a_postponed_key_can_be_taken_before_its_time(tx: Tx) -> None:
    leases.offer(tx, Q, "a", 0)
    leases.postpone(tx, leases.claim(tx, Q, "me", 0, SECOND), 1, 100)
    lease = leases.take(tx, Q, "a", "me", 2, SECOND)
    assert lease.epoch == 2
    assert leases.claim(tx, Q, "you", 200, SECOND) is None


def test_the_longest_waiting_key_goes_first_even_when_it_waited_before(tx: Tx) -> None:
    for at, key in enumerate(KEYS):
        leases.offer(tx, Q, key, at)
    first = leases.claim(tx, Q, "me", 10, SECOND)
    leases.offer(tx, Q, first.key, 11)
    leases.finish(tx, first, 12)
    order = [leases.claim(tx, Q, "me", 20, SECOND).key for _ in KEYS]
    assert order == ["b", "c", "a"]


def test_a_postponed_key_waits_unless_somebody_offers_it(tx: Tx) -> None:
    leases.offer(tx, Q, "a", 0)
    leases.postpone(tx, leases.claim(tx, Q, "me", 0, SECOND), 1, 100)
    assert leases.next_ready_us(tx, Q) == 100
    assert leases.claim(tx, Q, "me", 99, SECOND) is None
    leases.offer(tx, Q, "a", 50)
    lease = leases.claim(tx, Q, "me", 50, SECOND)
    leases.offer(tx, Q, "a", 51)
    leases.postpone(tx, lease, 52, 1000)
    assert leases.next_ready_us(tx, Q) == 52


def test_an_offer_may_lie_ahead(tx: Tx) -> None:
    leases.offer(tx, Q, "a", 0, at_us=40)
    assert leases.claim(tx, Q, "me", 39, SECOND) is None
    assert leases.claim(tx, Q, "me", 40, SECOND).key == "a"


def test_who_was_reaped_can_do_nothing_any_more(tx: Tx) -> None:
    leases.offer(tx, Q, "a", 0)
    old = leases.claim(tx, Q, "me", 0, SECOND)
    assert leases.reap(tx, Q, SECOND - 1) == []
    assert leases.reap(tx, Q, SECOND) == ["a"]
    new = leases.claim(tx, Q, "you", SECOND, SECOND)
    with pytest.raises(LostLease):
        leases.check(tx, Q, "a", old.epoch)
    with pytest.raises(LostLease):
        leases.beat(tx, old, 9 * SECOND)
    with pytest.raises(LostLease):
        leases.finish(tx, old, 3)
    with pytest.raises(LostLease):
        leases.postpone(tx, old, 3, 4)
    leases.check(tx, Q, "a", new.epoch)


def test_a_beat_keeps_a_claim_from_being_reaped(tx: Tx) -> None:
    leases.offer(tx, Q, "a", 0)
    lease = leases.claim(tx, Q, "me", 0, SECOND)
    leases.beat(tx, lease, 5 * SECOND)
    assert leases.reap(tx, Q, 4 * SECOND) == []


def test_a_holder_that_ends_gives_back_all_its_claims_and_nobody_elses(tx: Tx) -> None:
    for key in KEYS:
        leases.offer(tx, Q, key, 10)
    mine = [leases.claim(tx, Q, "me", 11, SECOND) for _ in range(2)]
    yours = leases.claim(tx, Q, "you", 11, SECOND)
    leases.offer(tx, Q, "b", 12)  # while it is held
    leases.offer(tx, leases.DREAMS, "d", 10)
    dream = leases.claim(tx, leases.DREAMS, "me", 11, SECOND)
    assert sorted(leases.release(tx, Q, "me", 13)) == ["a", "b"]
    assert leases.release(tx, Q, "me", 13) == []
    for lease in mine:
        assert lease is not None
        with pytest.raises(LostLease):
            leases.beat(tx, lease, 20)
    for lease in (yours, dream):
        assert lease is not None
        leases.beat(tx, lease, 20)
    again = [leases.claim(tx, Q, "you", 13, SECOND) for _ in range(3)]
    assert [lease and (lease.key, lease.epoch) for lease in again] == [("a", 2), ("b", 2), None]


def test_a_dropped_key_loses_its_holder(tx: Tx) -> None:
    leases.offer(tx, Q, "a", 0)
    lease = leases.claim(tx, Q, "me", 0, SECOND)
    leases.drop(tx, Q, "a")
    with pytest.raises(LostLease):
        leases.check(tx, Q, "a", lease.epoch)
    assert leases.next_ready_us(tx, Q) is None


def test_queues_do_not_see_each_other(tx: Tx) -> None:
    leases.offer(tx, "other", "a", 0)
    assert leases.claim(tx, Q, "me", 1, SECOND) is None
    assert leases.reap(tx, Q, SECOND) == []


class Queue(RuleBasedStateMachine):
    """Random offers, claims, deaths and late acts against a small model.

    ``wanted`` holds keys whose newest offer nobody has claimed yet: such a key must be claimable
    as soon as its holder, if any, is gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tx = Tx(fresh())
        self.now = 0
        self.wanted: set[str] = set()
        self.holders: dict[str, leases.Lease] = {}
        self.gone: list[leases.Lease] = []
        self.epochs: dict[str, int] = {}

    def teardown(self) -> None:
        self.tx.connection.close()

    @rule(key=st.sampled_from(KEYS))
    def offer(self, key: str) -> None:
        leases.offer(self.tx, Q, key, self.now)
        self.wanted.add(key)

    @rule()
    def claim(self) -> None:
        lease = leases.claim(self.tx, Q, "me", self.now, SECOND)
        free = self.wanted - self.holders.keys()
        if lease is None:
            assert not free, f"lost wake-up of {free}"
            return
        assert lease.key in free
        assert lease.epoch > self.epochs.get(lease.key, 0)
        self.epochs[lease.key] = lease.epoch
        self.wanted.discard(lease.key)
        self.holders[lease.key] = lease

    @rule(key=st.sampled_from(KEYS))
    def take(self, key: str) -> None:
        lease = leases.take(self.tx, Q, key, "me", self.now, SECOND)
        if lease is None:
            assert key in self.holders or (key not in self.wanted and key not in self.epochs)
            return
        assert key not in self.holders
        assert lease.epoch > self.epochs.get(key, 0)
        self.epochs[key] = lease.epoch
        self.wanted.discard(key)
        self.holders[key] = lease

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        lease = self.holders.pop(data.draw(st.sampled_from(sorted(self.holders))))
        assert leases.finish(self.tx, lease, self.now) == (lease.key in self.wanted)
        self.gone.append(lease)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.holders)))
        lease = self.holders[key]
        leases.beat(self.tx, lease, self.now + SECOND)
        self.holders[key] = leases.Lease(Q, key, lease.epoch, self.now + SECOND)

    @rule(step=st.integers(1, SECOND))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule()
    def reap(self) -> None:
        expired = {key for key, lease in self.holders.items() if lease.expires_us <= self.now}
        assert set(leases.reap(self.tx, Q, self.now)) == expired
        for key in expired:
            self.gone.append(self.holders.pop(key))
            self.wanted.add(key)  # its work is not known to be done

    @precondition(lambda self: self.gone)
    @rule(data=st.data(), act=st.sampled_from(["check", "beat", "finish", "postpone"]))
    def a_late_act_is_refused(self, data: st.DataObject, act: str) -> None:
        lease = data.draw(st.sampled_from(self.gone))
        acts = {
            "check": lambda: leases.check(self.tx, Q, lease.key, lease.epoch),
            "beat": lambda: leases.beat(self.tx, lease, self.now + SECOND),
            "finish": lambda: leases.finish(self.tx, lease, self.now),
            "postpone": lambda: leases.postpone(self.tx, lease, self.now, self.now),
        }
        with pytest.raises(LostLease):
            acts[act]()

    @invariant()
    def holders_are_valid(self) -> None:
        for lease in self.holders.values():
            leases.check(self.tx, Q, lease.key, lease.epoch)


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
