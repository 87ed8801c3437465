"""Limits of several processes: what one takes is soon gone for the others, and nothing twice."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.metering.buckets import Bucket
from intramuros.control.store import tallies
from intramuros.control.store.tallies import AGAIN_S, GATHER_S, SILENT_S, Key, Tally
from intramuros.kernel.timing import ManualClock

KEY = ("w", "g", "requests_per_minute")
LIMIT = 60


class Book:
    """Buckets of 60 a minute, made when they are named."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.buckets: dict[Key, Bucket] = {}

    def share(self, note: Callable[[Key, float, float], None]) -> None:
        self.note = note

    def bucket(self, key: Key = KEY) -> Bucket:
        return self.buckets.setdefault(key, Bucket.full(LIMIT, self.clock.monotonic()))

    def charge(self, key: Key, amount: float) -> bool:
        if key[0] == "unknown":
            return False
        self.bucket(key).take(amount, self.clock.monotonic())
        return True

    def take(self, amount: float, key: Key = KEY) -> None:
        self.bucket(key).take(amount, self.clock.monotonic())
        self.note(key, amount, LIMIT / 60)

    def left(self, key: Key = KEY) -> float:
        return self.bucket(key).look(self.clock.monotonic())


class Party:
    """Processes whose messages are carried by hand."""

    def __init__(self, count: int = 2) -> None:
        self.clock = ManualClock()
        self.books = [Book(self.clock) for _ in range(count)]
        self.due: list[float] = []
        self.tallies = [self.join(book) for book in self.books]

    def join(self, book: Book) -> Tally:
        tally = Tally(self.clock, {"rates": book})
        tally.attach(self.due.append)
        return tally

    def carry(self, *, lose: bool = False) -> int:
        """Let everybody say what it has, a moment later; return how many messages that were."""
        self.clock.advance(GATHER_S)
        said = [(tally, [json.dumps(body) for body in tally.say()]) for tally in self.tallies]
        for source, messages in said:
            for message in messages:
                assert len(message) <= 7_500
                for target in self.tallies:
                    if target is not source and not lose:
                        target.hear(json.loads(message))
        return sum(len(messages) for _, messages in said)


def test_what_one_takes_is_gone_for_the_others() -> None:
    party = Party(3)
    party.books[0].take(30)
    party.books[1].take(20)
    assert party.due == [GATHER_S, GATHER_S]
    assert party.carry() == 2
    assert [round(book.left()) for book in party.books] == [10, 10, 10]
    party.books[2].take(5)
    party.books[2].take(-3)
    party.carry()
    assert {round(book.left()) for book in party.books} == {8}
    assert party.carry() == 0, "nothing is told twice"


def test_what_is_taken_at_once_everywhere_is_owed_and_paid() -> None:
    party = Party(2)
    for book in party.books:
        book.take(LIMIT)
    party.carry()
    assert [round(book.left()) for book in party.books] == [-LIMIT, -LIMIT]


def test_taking_is_gathered_and_asked_for_again_if_it_is_too_early() -> None:
    party = Party()
    party.books[0].take(1)
    assert list(party.tallies[0].say()) == []
    party.books[0].take(1)
    assert party.due == [GATHER_S, GATHER_S]
    party.clock.advance(GATHER_S)
    ((_, entry),) = party.tallies[0].say()
    assert entry[3] == 2


def test_a_lost_message_is_made_up_for() -> None:
    party = Party()
    party.books[0].take(5)
    party.carry()
    party.books[0].take(10)
    party.carry(lose=True)
    assert round(party.books[1].left()) == 55
    party.tallies[0].renew(anew=False)
    party.carry()
    assert round(party.books[1].left()) == round(party.books[0].left()) == 45
    party.clock.advance(AGAIN_S + 1)
    party.tallies[0].renew(anew=False)
    assert party.carry() == 0, "it was told often enough"


def test_a_newcomer_is_told_what_is_still_owed() -> None:
    party = Party()
    party.books[0].take(50)
    party.carry()
    party.clock.advance(AGAIN_S + 1)
    book = Book(party.clock)
    party.tallies.append(party.join(book))
    party.tallies[0].renew(anew=True)
    party.carry()
    assert round(book.left(), 3) == round(party.books[0].left(), 3) < LIMIT
    party.clock.advance(LIMIT)
    party.tallies[0].renew(anew=True)
    assert party.carry() == 0, "everything has flowed back"


def test_who_begins_to_count_anew_is_not_taken_for_who_gave_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tallies, "ACCOUNTS_LIMIT", 1)
    party = Party()
    party.books[0].take(30)
    party.carry()
    party.books[0].take(1, ("other",))
    party.books[0].take(3)
    party.carry()
    assert round(party.books[1].left()) == 27


def test_limits_that_are_not_known_here_are_left_alone() -> None:
    party = Party()
    party.books[0].take(3, ("unknown",))
    party.carry()
    assert party.books[1].buckets == {}


@pytest.mark.parametrize(
    "body",
    [
        [],
        ["x", 7],
        ["x", ["other", ["k"], 1, 2.0, 2.0]],
        ["x", ["rates", ["k"], 1, float("nan"), 2.0]],
        ["x", ["rates", ["k"], 1, 2.0, float("inf")]],
        ["x", ["rates", ["k"], 1, "2", 2.0]],
        ["x", ["rates", 1, 1, 2.0, 2.0]],
    ],
)
def test_strange_messages_take_nothing(body: list[object]) -> None:
    party = Party()
    with pytest.raises((ValueError, TypeError, LookupError)):
        party.tallies[0].hear(body)
    assert party.books[0].buckets == {}


def test_processes_are_forgotten_and_no_more_of_them_known_than_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tallies, "PEERS_LIMIT", 2)
    tally = Party().tallies[0]
    tally.hear(["a"])
    tally.hear(["b"])
    with pytest.raises(ValueError, match="more processes"):
        tally.hear(["c"])
    party = Party()
    party.tallies[0].hear(["a"])
    party.clock.advance(SILENT_S + 1)
    party.tallies[0].renew(anew=False)
    assert party.tallies[0]._peers == {}


def test_many_limits_go_in_several_messages() -> None:
    party = Party()
    for number in range(200):
        party.books[0].take(1, (f"wrkspc_{number:030d}", "g" * 30, "requests_per_minute"))
    assert party.carry() > 2
    assert len(party.books[1].buckets) == 200


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 20), st.booleans(), st.booleans()), max_size=40
    )
)
def test_all_agree_once_everything_was_heard(
    steps: list[tuple[int, int, bool, bool]],
) -> None:
    """Whatever was lost and whenever it was told: they differ by what flowed back at most."""
    party = Party(3)
    for who, amount, told, lost in steps:
        party.books[who].take(amount)
        if told:
            party.carry(lose=lost)
    for tally in party.tallies:
        tally.renew(anew=True)
    party.carry()
    taken = sum(amount for _, amount, _, _ in steps)
    flowed = party.clock.monotonic()
    for book in party.books:
        assert book.left() >= LIMIT - taken - 1e-6
    lefts = [book.left() for book in party.books]
    assert max(lefts) - min(lefts) <= flowed + 1e-6
