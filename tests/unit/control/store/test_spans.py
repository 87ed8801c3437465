import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, insert

from intramuros.control.store.db import Tx
from intramuros.control.store.spans import Span, fetch
from intramuros.control.store.tables import metadata, workspaces
from intramuros.kernel.errors import InvalidRequest


@given(st.lists(st.integers(0, 3), max_size=8), st.integers(1, 4))
def test_R027_walking_either_way_meets_every_row_once(times: list[int], limit: int) -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        metadata.create_all(connection)
        tx = Tx(connection)
        for index, at_us in enumerate(times):
            tx.execute(insert(workspaces).values(id=f"w{index}", name="w", created_us=at_us))
        newest_first = [
            f"w{i}" for i in sorted(range(len(times)), key=lambda i: (times[i], i), reverse=True)
        ]
        walked: list[str] = []
        more = True
        while more:
            at = Span(limit, after_id=walked[-1] if walked else None)
            rows, more = fetch(tx, workspaces, [], at)
            walked += [row.id for row in rows]
        assert walked == newest_first
        back: list[str] = newest_first[-1:]
        more = bool(back)
        while more:
            rows, more = fetch(tx, workspaces, [], Span(limit, before_id=back[0]))
            back = [row.id for row in rows] + back
        assert back == newest_first
    engine.dispose()


def test_R028_a_position_that_is_no_row_is_refused(tx: Tx) -> None:
    for at in (Span(1, after_id="no"), Span(1, before_id="no"), Span(1, "a", "b")):
        with pytest.raises(InvalidRequest):
            fetch(tx, workspaces, [], at)
