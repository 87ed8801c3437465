import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.kernel.ids import ENTROPY_BYTES, IdFactory, make_id
from intramuros.kernel.timing import ManualClock

TIMES = st.integers(0, 2**48 - 1)
ENTROPY = st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES)


@given(TIMES, TIMES, ENTROPY, ENTROPY)
def test_later_ids_sort_later(a: int, b: int, first: bytes, second: bytes) -> None:
    ids = make_id("sesn", a, first), make_id("sesn", b, second)
    assert (ids[0] < ids[1]) == ((a, first) < (b, second))


@given(TIMES, ENTROPY)
def test_ids_are_prefix_and_26_unambiguous_characters(at_ms: int, entropy: bytes) -> None:
    assert re.fullmatch(r"env_[0-9A-HJKMNP-TV-Z]{26}", make_id("env", at_ms, entropy))


@pytest.mark.parametrize(
    ("at_ms", "entropy"),
    [(0, b"short"), (0, b"\0" * 11), (-1, b"\0" * 10), (2**48, b"\0" * 10)],
)
def test_what_does_not_fit_is_refused(at_ms: int, entropy: bytes) -> None:
    with pytest.raises(ValueError, match=r"entropy|range"):
        make_id("env", at_ms, entropy)


def test_the_factory_takes_time_and_entropy_from_its_sources() -> None:
    clock = ManualClock()
    factory = IdFactory(clock, lambda count: b"\x07" * count)
    first = factory.new("agent")
    assert first == make_id("agent", 1_767_225_600_000, b"\x07" * ENTROPY_BYTES)
    clock.advance(0.001)
    assert first < factory.new("agent")
