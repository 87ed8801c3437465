"""What is said all the time is said now and then, and how often it was not."""

from intramuros.kernel.remarks import Remarks


def test_it_is_said_at_once_and_then_once_in_a_while() -> None:
    remarks = Remarks(10.0)
    assert remarks.due("full", 100.0) == 0
    assert [remarks.due("full", 100.0 + n) for n in range(1, 10)] == [None] * 9
    assert remarks.due("full", 110.0) == 9
    assert remarks.due("full", 111.0) is None
    assert remarks.due("full", 120.0) == 1


def test_different_things_do_not_silence_each_other() -> None:
    remarks = Remarks(10.0)
    assert remarks.due("full", 0.0) == 0
    assert remarks.due("away", 0.0) == 0


def test_it_remembers_a_bounded_number() -> None:
    remarks = Remarks(10.0)
    for n in range(10_000):
        assert remarks.due(str(n), 0.0) == 0
    assert len(remarks._said) <= 256
