import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.control.api.pages import CURSOR_TTL_S, Cursors, check_limit, page
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.timing import ManualClock

BOUND = {"list": "agent", "workspace": "wrkspc_1", "archived": False}


def cursors(clock: ManualClock | None = None, key: bytes = b"k" * 32) -> Cursors:
    return Cursors(key, clock or ManualClock())


@given(position=st.lists(st.integers() | st.text(max_size=40), max_size=4))
def test_what_was_sealed_opens(position: list[int | str]) -> None:
    sealed = cursors().seal(BOUND, position)
    assert sealed.startswith("page_")
    assert cursors().open(BOUND, sealed) == position


def test_cursors_fit_only_their_own_list_and_server() -> None:
    sealed = cursors().seal(BOUND, (1, "a"))
    for bound in ({**BOUND, "archived": True}, {**BOUND, "workspace": "wrkspc_2"}, {}):
        with pytest.raises(InvalidRequest, match="other filters"):
            cursors().open(bound, sealed)
    with pytest.raises(InvalidRequest, match="no cursor"):
        cursors(key=b"other" * 8).open(BOUND, sealed)


def test_cursors_last_a_day() -> None:
    clock = ManualClock()
    sealed = cursors(clock).seal(BOUND, (1, "a"))
    clock.advance(CURSOR_TTL_S)
    assert cursors(clock).open(BOUND, sealed) == [1, "a"]
    clock.advance(1)
    with pytest.raises(InvalidRequest, match="expired"):
        cursors(clock).open(BOUND, sealed)


@given(text=st.text(max_size=60) | st.text(max_size=60).map(lambda t: "page_" + t))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="page: "):
        cursors().open(BOUND, text)


@given(at=st.integers(min_value=0, max_value=200), char=st.sampled_from("AB_-9"))
def test_a_changed_cursor_is_refused_or_the_same(at: int, char: str) -> None:
    sealed = cursors().seal(BOUND, (1, "agent_1"))
    changed = sealed[:at] + char + sealed[at + 1 :]
    try:
        assert cursors().open(BOUND, changed) == [1, "agent_1"]
    except InvalidRequest:
        return


def test_limits_are_refused_not_clamped() -> None:
    assert check_limit(None, 20, 100) == 20
    assert (check_limit(1, 20, 100), check_limit(100, 20, 100)) == (1, 100)
    for bad in (0, -1, 101):
        with pytest.raises(InvalidRequest, match="from 1 to 100"):
            check_limit(bad, 20, 100)


def test_a_page_has_two_members() -> None:
    assert page([], None) == {"data": [], "next_page": None}
