"""Where the database stood when a request came."""

from contextvars import copy_context

import pytest

from intramuros.control.store import arrival
from intramuros.control.store.arrival import Position, arriving


def test_a_read_tells_the_request_that_asked_for_it() -> None:
    with arriving() as request:
        context = copy_context()  # taken by a read, and used on another thread
        arrival.note(context, Position(7, 1, 99))
        assert arrival.current() is request
        assert request.position == Position(7, 1, 99)


def test_one_request_knows_nothing_of_another() -> None:
    with arriving():
        arrival.note(copy_context(), Position(7, 1, 99))
    with arriving() as request:
        assert request.position is None


def test_outside_a_request_nothing_is_kept() -> None:
    arrival.note(copy_context(), Position(7, 1, 99))
    arrival.forget()
    assert arrival.current() is None


def test_what_is_written_for_a_request_makes_it_ask_again() -> None:
    with arriving() as request:
        arrival.note(copy_context(), Position(7, 1, 99))
        arrival.forget()
        assert request.position is None


@pytest.mark.parametrize(
    ("text", "offset"),
    [("0/0", 0), ("0/3004F38", 0x3004F38), ("16/B374D848", 0x16B374D848), ("1/0", 1 << 32)],
)
def test_positions_are_numbers(text: str, offset: int) -> None:
    assert arrival.offset_of(text) == offset
