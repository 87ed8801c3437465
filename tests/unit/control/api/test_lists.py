import pytest

from intramuros.control.api.lists import time_bound
from intramuros.kernel.errors import InvalidRequest


def test_times_become_microseconds() -> None:
    assert time_bound("x", None) is None
    assert time_bound("x", "1970-01-01T00:00:01.000002Z") == 1_000_002
    assert time_bound("x", "1970-01-01T02:00:00+02:00") == 0


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-01", "2026-01-01T00:00:00", "1"])
def test_times_without_a_zone_or_sense_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"created_at\[gt\]: "):
        time_bound("created_at[gt]", text)
