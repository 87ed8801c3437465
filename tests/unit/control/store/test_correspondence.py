import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.store.correspondence import (
    APART_S,
    LONGEST_BYTES,
    SENDERS_LIMIT,
    Correspondence,
    Strange,
)
from intramuros.kernel.timing import ManualClock

SECRET = b"s" * 32
A, B = "a" * 32, "b" * 32


def pair(secret: bytes = SECRET) -> tuple[Correspondence, Correspondence, ManualClock]:
    clock = ManualClock()
    return Correspondence(SECRET, A, clock), Correspondence(secret, B, clock), clock


def test_what_one_says_another_reads_and_nobody_else() -> None:
    here, there, _ = pair()
    told = here.seal(b"the secret answer")
    assert there.open(told) == b"the secret answer"
    assert here.open(told) is None
    assert b"secret answer" not in base64.b64decode(told.partition(":")[2])


def test_the_longest_fits_into_a_notification() -> None:
    here, there, _ = pair()
    told = here.seal(b"x" * LONGEST_BYTES)
    assert len(told) < 8000
    assert len(here.seal(b"x" * (LONGEST_BYTES + 3))) >= 8000
    assert there.open(told) == b"x" * LONGEST_BYTES


def test_nothing_is_heard_twice_nor_in_another_order() -> None:
    here, there, _ = pair()
    first, second = here.seal(b"1"), here.seal(b"2")
    assert there.open(second) == b"2"
    for late in (first, second):
        with pytest.raises(Strange, match="before"):
            there.open(late)


def test_what_is_old_is_not_heard_by_who_knows_no_better() -> None:
    here, _, clock = pair()
    told = here.seal(b"1")
    clock.advance(APART_S + 1)
    begun = Correspondence(SECRET, "c" * 32, clock)
    with pytest.raises(Strange, match="another time"):
        begun.open(told)
    assert begun.open(here.seal(b"2")) == b"2"


@pytest.mark.parametrize("jump_s", [3_600, -3_600])
def test_a_clock_that_is_set_does_not_part_servers_that_know_each_other(jump_s: float) -> None:
    clock = ManualClock()
    there = Correspondence(SECRET, B, ManualClock())
    here = Correspondence(SECRET, A, clock)
    assert there.open(here.seal(b"1")) == b"1"
    clock.advance(jump_s)
    assert there.open(here.seal(b"2")) == b"2"
    clock.advance(-jump_s)
    assert there.open(here.seal(b"3")) == b"3"
    # Nor those that meet when it is right again.
    assert Correspondence(SECRET, "c" * 32, ManualClock()).open(here.seal(b"4")) == b"4"


def test_who_says_much_in_one_moment_is_heard() -> None:
    here, there, _ = pair()
    for n in range(100):
        assert there.open(here.seal(b"%d" % n)) == b"%d" % n


def test_other_secrets_and_other_names_do_not_open() -> None:
    here, stranger, _ = pair(b"t" * 32)
    with pytest.raises(Strange, match="open"):
        stranger.open(here.seal(b"x"))
    _, there, _ = pair()
    passed_off = here.seal(b"x").replace(A, "c" * 32)
    with pytest.raises(Strange, match="open"):
        there.open(passed_off)


def test_the_senders_that_are_remembered_are_few() -> None:
    clock = ManualClock()
    there = Correspondence(SECRET, B, clock)
    for n in range(SENDERS_LIMIT + 10):
        assert there.open(Correspondence(SECRET, f"{n:032x}", clock).seal(b"x")) == b"x"
    assert len(there._others) == SENDERS_LIMIT


@given(st.text(max_size=200) | st.binary(max_size=90).map(lambda b: A + ":" + b.hex()))
def test_foreign_texts_are_refused(told: str) -> None:
    _, there, _ = pair()
    with pytest.raises(Strange):
        there.open(told)


@given(st.data())
def test_whatever_is_changed_on_the_way_does_not_open(data: st.DataObject) -> None:
    here, there, _ = pair()
    told = here.seal(b"some words!!")  # 48 bytes: no bit of the base64 is idle
    at = data.draw(st.integers(0, len(told) - 1))
    changed = (
        told[:at] + data.draw(st.characters().filter(lambda c: c != told[at])) + told[at + 1 :]
    )
    with pytest.raises(Strange):
        there.open(changed)
