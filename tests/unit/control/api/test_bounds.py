import pytest

from intramuros.control.api.bounds import Bounds, _bounds
from intramuros.kernel.errors import InvalidRequest

pytestmark = pytest.mark.anyio

AT = "1970-01-01T00:00:01Z"
LATER = "1970-01-01T00:00:02+00:00"
US = 1_000_000


@pytest.mark.parametrize(
    ("query", "interval"),
    [
        ({}, (None, None)),
        ({"gt": AT}, (US + 1, None)),
        ({"gte": AT}, (US, None)),
        ({"lt": AT}, (None, US)),
        ({"lte": AT}, (None, US + 1)),
        ({"gt": AT, "gte": LATER}, (2 * US, None)),
        ({"lt": AT, "lte": LATER}, (None, US)),
        ({"gte": AT, "lt": LATER}, (US, 2 * US)),
    ],
)
async def test_1_29_four_parameters_make_one_interval(
    query: dict[str, str], interval: tuple[int | None, int | None]
) -> None:
    found = await _bounds(**{name: query.get(name) for name in ("gt", "gte", "lt", "lte")})
    assert (found.from_us, found.until_us) == interval


def test_what_an_interval_holds() -> None:
    assert Bounds().hold(5)
    inside = Bounds(2, 4)
    assert [at for at in range(6) if inside.hold(at)] == [2, 3]


async def test_a_bad_time_is_named() -> None:
    with pytest.raises(InvalidRequest, match="lte"):
        await _bounds(None, None, None, "yesterday")
