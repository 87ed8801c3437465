from types import SimpleNamespace
from typing import Any

from intramuros.execution.egress.http1 import Place
from intramuros.execution.egress.tickets import MAX_TICKETS, TICKET_S, Tickets
from intramuros.kernel.timing import ManualClock

PLACE = Place("api.test", 443, "https")


def leg(session: object) -> Any:
    return SimpleNamespace(session=session)


def test_a_session_is_for_its_very_place_and_for_a_while() -> None:
    clock = ManualClock()
    tickets = Tickets(clock)
    assert tickets.get(PLACE) is None
    tickets.keep(PLACE, leg(None))
    assert tickets.get(PLACE) is None
    tickets.keep(PLACE, leg("session"))
    assert tickets.get(PLACE) == "session"
    assert tickets.get(Place("api.test", 8443, "https")) is None
    assert tickets.get(Place("other.test", 443, "https")) is None
    clock.advance(TICKET_S)
    assert tickets.get(PLACE) == "session"
    clock.advance(1)
    assert tickets.get(PLACE) is None


def test_a_session_counts_from_its_first_connection() -> None:
    """What was verified once is not held to be verified for ever."""
    clock = ManualClock()
    tickets = Tickets(clock)
    tickets.keep(PLACE, leg("first"))
    clock.advance(TICKET_S / 2)
    tickets.keep(PLACE, leg("resumed"))
    assert tickets.get(PLACE) == "first"
    clock.advance(TICKET_S / 2 + 1)
    assert tickets.get(PLACE) is None
    tickets.keep(PLACE, leg("anew"))
    assert tickets.get(PLACE) == "anew"


def test_in_the_clear_there_is_nothing_to_resume_and_few_are_kept() -> None:
    tickets = Tickets(ManualClock())
    tickets.keep(Place("api.test", 80, "http"), leg("session"))
    assert tickets.get(Place("api.test", 80, "http")) is None
    for number in range(MAX_TICKETS + 1):
        tickets.keep(Place(f"{number}.test", 443, "https"), leg(number))
    assert tickets.get(Place("0.test", 443, "https")) is None
    assert tickets.get(Place("1.test", 443, "https")) == 1
