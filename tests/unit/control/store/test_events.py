import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine

from intramuros.control.store import events
from intramuros.control.store.db import Tx
from intramuros.control.store.events import End, Position, Query, Stamp
from intramuros.control.store.records import Draft, Record
from intramuros.control.store.tables import metadata

S = "sesn_1"


def fresh() -> Connection:
    connection = create_engine("sqlite://").connect()
    metadata.create_all(connection)
    return connection


@pytest.fixture
def tx():
    with fresh() as connection:
        yield Tx(connection)


class Log:
    """Appends to one session, one row at a time or several."""

    def __init__(self, tx: Tx, session_id: str = S) -> None:
        self.tx = tx
        self.session_id = session_id
        self.end = End(0, 0)
        self.made = 0

    def append(self, *drafts: Draft, now_us: int = 0) -> list[Record]:
        def new_id() -> str:
            self.made += 1
            return f"sevt_{self.session_id}_{self.made}"

        added = events.place(self.session_id, self.end, drafts, Stamp(now_us, new_id))
        if added:
            events.insert_all(self.tx, added)
        self.end = End(added[-1].seq, added[-1].at_us) if added else self.end
        return added


def test_rows_come_back_as_they_were_written(tx: Tx) -> None:
    log = Log(tx)
    written = log.append(
        Draft("user.message", {"content": [{"type": "text", "text": "ü\u0000 "}]}, queued=True),
        Draft("agent.message", {"a": 1}, thread_id="sthr_2", private={"blocks": [1]}),
        Draft("internal.mark"),
        now_us=50,
    )
    assert [(r.seq, r.at_us) for r in written] == [(1, 50), (2, 51), (3, 52)]
    assert events.read(tx, S) == written
    assert events.read(tx, S, after_seq=1, upto_seq=2) == written[1:2]
    assert events.place(S, log.end, [], Stamp(0, str)) == []


def test_amb_25_times_rise_strictly_though_the_clock_stands_or_steps_back(tx: Tx) -> None:
    log = Log(tx)
    times = [r.at_us for now in (100, 100, 7, 300) for r in log.append(Draft("a"), now_us=now)]
    assert times == [100, 101, 102, 300]


def test_the_tail_shows_what_happened_and_nothing_else(tx: Tx) -> None:
    log = Log(tx)
    arrived = log.append(Draft("user.message", queued=True))[0]
    log.append(Draft("internal.mark"))
    happened = log.append(Draft("user.message", id=arrived.id), Draft("agent.message"))
    assert events.tail(tx, S, 0, 10) == happened
    assert events.tail(tx, S, 3, 10) == happened[1:]
    assert events.tail(tx, S, 0, 1) == happened[:1]


def test_sessions_do_not_see_each_other(tx: Tx) -> None:
    Log(tx).append(Draft("a"))
    Log(tx, "sesn_2").append(Draft("b"))
    assert [r.type for r in events.read(tx, "sesn_2")] == ["b"]
    assert events.page(tx, "sesn_3", Query()) == ([], None)


def test_an_event_is_found_by_id_as_processed_if_it_is(tx: Tx) -> None:
    log = Log(tx)
    arrived = log.append(Draft("user.message", queued=True))[0]
    assert events.by_id(tx, S, arrived.id) == arrived
    processed = log.append(Draft("user.message", id=arrived.id))[0]
    assert events.by_id(tx, S, arrived.id) == processed
    assert events.by_id(tx, S, "sevt_none") is None
    assert events.by_id(tx, "sesn_2", arrived.id) is None
    assert events.by_id_among(tx, ["sesn_2", S], arrived.id) == processed
    assert events.by_id_among(tx, ["sesn_2"], arrived.id) is None
    assert events.by_id_among(tx, [], arrived.id) is None


def test_the_answers_to_a_call_are_found_in_order(tx: Tx) -> None:
    log = Log(tx)
    asked = log.append(
        Draft("user.tool_confirmation", {"tool_use_id": "u1", "result": "allow"}, queued=True),
        Draft("user.tool_result", {"tool_use_id": "u2"}),
        Draft("user.tool_result", {"tool_use_id": "u1"}),
        Draft("user.custom_tool_result", {"custom_tool_use_id": "u3"}),
    )
    assert events.answer_to(tx, S, "u1") == [asked[0], asked[2]]
    assert events.answer_to(tx, S, "u3") == [asked[3]]
    assert events.answer_to(tx, S, "u4") == []


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["happened", "waits", "consumed", "internal"]),
        st.sampled_from(["a", "b"]),
        st.integers(0, 3),
    ),
    max_size=14,
)


def fill(log: Log, rows: list[tuple[str, str, int]]) -> list[Record]:
    """Write rows and return the public list as the contract orders it."""
    happened, waits = [], []
    for kind, type, step in rows:
        now_us = log.end.at_us + step
        if kind == "internal":
            log.append(Draft(f"internal.{type}"), now_us=now_us)
            continue
        first = log.append(Draft(type, queued=kind != "happened"), now_us=now_us)[0]
        if kind == "happened":
            happened.append(first)
        elif kind == "waits":
            waits.append(first)
        else:
            happened += log.append(Draft(type, id=first.id), now_us=now_us)
    return happened + waits


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(1, 5), st.booleans(), st.sets(st.sampled_from(["a", "b", "c"])))
def test_pages_join_to_the_whole_list(
    rows: list[tuple[str, str, int]], limit: int, ascending: bool, types: set[str]
) -> None:
    with fresh() as connection:
        expected = fill(Log(Tx(connection)), rows)
        expected = [r for r in expected if not types or r.type in types]
        if not ascending:
            expected = expected[::-1]
        found: list[Record] = []
        after: Position | None = None
        for _ in range(len(expected) + 1):
            order = "asc" if ascending else "desc"
            page, after = events.page(
                Tx(connection), S, Query(order=order, types=types, limit=limit, after=after)
            )
            assert len(page) <= limit
            found += page
            if after is None:
                break
        assert found == expected


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(0, 20), st.integers(0, 20))
def test_16_2_bounds_are_on_processing_and_leave_out_what_waits(
    rows: list[tuple[str, str, int]], start: int, stop: int
) -> None:
    with fresh() as connection:
        expected = fill(Log(Tx(connection)), rows)
        found, _ = events.page(Tx(connection), S, Query(from_us=start, until_us=stop))
        assert found == [r for r in expected if not r.queued and start <= r.at_us < stop]
