from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intramuros.control.deployment.cron import BadExpression, Cron, parse
from intramuros.control.deployment.zones import zone

ZONES = (
    "UTC",
    "America/New_York",
    "Europe/Dublin",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "Pacific/Chatham",
    "America/Santiago",
    "Africa/Cairo",
    "Antarctica/Troll",
)
# Nights on which the zones above change their clocks, and a leap day.
NIGHTS = (
    datetime(2026, 3, 8, tzinfo=UTC),
    datetime(2026, 3, 29, tzinfo=UTC),
    datetime(2026, 4, 4, tzinfo=UTC),
    datetime(2026, 10, 3, tzinfo=UTC),
    datetime(2026, 10, 25, tzinfo=UTC),
    datetime(2026, 11, 1, tzinfo=UTC),
    datetime(2028, 2, 28, tzinfo=UTC),
)
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def times(expression: str, name: str, after: datetime, count: int = 5) -> list[str]:
    found = islice(parse(expression).times(zone(name), after), count)
    return [at.strftime("%Y-%m-%d %H:%M") for at in found]


def oracle(expression: str, name: str, after: datetime, until: datetime) -> list[datetime]:
    """Look at every minute of UTC whether the wall clock matches; nothing is clever here."""
    fields = [
        _values(field, *bound) for field, bound in zip(expression.split(), BOUNDS, strict=True)
    ]
    minute, hour, day, month, weekday = fields
    _, _, day_text, _, weekday_text = expression.split()
    both = day_text.startswith("*") or weekday_text.startswith("*")
    found, at = [], after.replace(second=0, microsecond=0)
    while at < until:
        wall = at.astimezone(zone(name))
        days = wall.day in day, wall.isoweekday() % 7 in {one % 7 for one in weekday}
        if (
            at > after
            and wall.minute in minute
            and wall.hour in hour
            and wall.month in month
            and (all(days) if both else any(days))
        ):
            found.append(at)
        at += timedelta(minutes=1)
    return found


def _values(field: str, low: int, high: int) -> set[int]:
    values: set[int] = set()
    for term in field.split(","):
        base, _, step = term.partition("/")
        first, _, last = base.partition("-")
        if base == "*":
            start, end = low, high
        else:
            start = int(first)
            end = int(last) if last else (high if step else start)
        values |= set(range(start, end + 1, int(step or 1)))
    return values


def field(low: int, high: int) -> st.SearchStrategy[str]:
    one = st.integers(low, high)
    pair = st.tuples(one, one).map(lambda two: f"{min(two)}-{max(two)}")
    base = st.one_of(st.just("*"), one.map(str), pair)
    stepped = st.tuples(base, st.integers(1, high)).map(lambda two: f"{two[0]}/{two[1]}")
    return st.lists(st.one_of(base, base, stepped), min_size=1, max_size=3).map(",".join)


EXPRESSIONS = st.tuples(
    field(0, 59),
    # Most often in the hours at which clocks are changed.
    st.one_of(field(0, 3), field(0, 23)),
    st.one_of(st.just("*"), field(1, 31)),
    st.one_of(st.just("*"), field(1, 12)),
    st.one_of(st.just("*"), field(0, 7)),
).map(" ".join)


@pytest.mark.timeout(240)
@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS, st.sampled_from(ZONES), st.sampled_from(NIGHTS), st.integers(-1500, 1500))
def test_R216_it_agrees_with_looking_at_every_minute(
    expression: str, name: str, night: datetime, minutes: int
) -> None:
    after = night + timedelta(minutes=minutes, seconds=minutes % 60, microseconds=minutes % 7)
    until = after + timedelta(days=3)
    try:
        cron = parse(expression)
    except BadExpression:
        # Then no date at all matches: look at every day of a leap year.
        _, _, day, month, weekday = expression.split()
        leap = datetime(2028, 1, 1, tzinfo=UTC)
        dates = f"0 0 {day} {month} {weekday}"
        assert not any(
            oracle(
                dates,
                "UTC",
                leap + timedelta(days=n, minutes=-1),
                leap + timedelta(days=n, minutes=1),
            )
            for n in range(366)
        )
        return
    found = []
    for at in cron.times(zone(name), after):
        if at >= until:
            break
        found.append(at)
    assert found == oracle(expression, name, after, until)


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.parametrize("expression", ["30 1,2 * * *", "*/20 0-4 * * 0", "15 0-3 1-8 3,4,10 *"])
def test_R216_two_years_of_changes_agree_too(expression: str, name: str) -> None:
    """Weeks apart from each other, so that empty ones are jumped over."""
    begin, end = datetime(2025, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    found = list(takewhile(lambda at: at < end, parse(expression).times(zone(name), begin)))
    assert len(found) > 15
    assert found == sorted(set(found))
    hours = [begin + timedelta(hours=n) for n in range(24 * 730)]
    offsets = [at.astimezone(zone(name)).utcoffset() for at in hours]
    changes = [at for at, (old, new) in zip(hours, pairwise(offsets), strict=False) if old != new]
    assert len(changes) >= 4 or name in ("UTC", "Asia/Kathmandu")
    for at in changes:
        since, until = at - timedelta(days=1), at + timedelta(days=1)
        around = [one for one in found if since < one < until]
        assert around == oracle(expression, name, since, until)


def test_R216_a_time_that_does_not_exist_is_skipped() -> None:
    before = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert times("30 1 * * *", "Europe/Dublin", before, 2) == [
        "2026-03-30 00:30",
        "2026-03-31 00:30",
    ]
    # New York goes from 2 to 3 o'clock.
    before = datetime(2026, 3, 7, 12, tzinfo=UTC)
    assert times("0 2 * * *", "America/New_York", before, 1) == ["2026-03-09 06:00"]
    # Lord Howe skips half an hour only: 2:00 to 2:29 are not there, 2:30 is.
    before = datetime(2026, 10, 3, 12, tzinfo=UTC)
    assert times("15,45 2 * * *", "Australia/Lord_Howe", before, 2) == [
        "2026-10-03 15:45",
        "2026-10-04 15:15",
    ]


def test_R216_a_time_that_comes_twice_fires_twice() -> None:
    before = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert times("30 1 * * *", "Europe/Dublin", before, 3) == [
        "2026-10-25 00:30",
        "2026-10-25 01:30",
        "2026-10-26 01:30",
    ]
    before = datetime(2026, 10, 31, 12, tzinfo=UTC)
    assert times("59 1 * * *", "America/St_Johns", before, 3) == [
        "2026-11-01 04:29",
        "2026-11-01 05:29",
        "2026-11-02 05:29",
    ]
    before = datetime(2026, 4, 4, 12, tzinfo=UTC)
    assert times("45 1 * * *", "Australia/Lord_Howe", before, 3) == [
        "2026-04-04 14:45",
        "2026-04-04 15:15",
        "2026-04-05 15:15",
    ]


def test_R216_wall_clocks_of_odd_offsets() -> None:
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
    assert times("0 9 * * 1-5", "Asia/Kathmandu", noon, 1) == ["2026-06-02 03:15"]
    # The same hour of the day in summer and winter.
    assert times("0 20 1 1,7 *", "America/New_York", noon, 2) == [
        "2026-07-02 00:00",
        "2027-01-02 01:00",
    ]


@pytest.mark.parametrize(
    "expression",
    ["* * * * *", "0 9 * * 1-5", "*/15 0,12 1 1 *", "5/10 * * * *", "0 0 * jan-mar MON,WED,SAT"],
)
def test_R215_five_fields_are_taken(expression: str) -> None:
    assert parse(expression) == Cron(expression)


@pytest.mark.parametrize("field", ["4-4/2", "04-4/2", "apr-4/2", "4-APR/9"])
def test_a_range_of_one_with_a_step_is_one(field: str) -> None:
    after = datetime(2026, 1, 1, tzinfo=UTC)
    assert times(f"0 0 1 {field} *", "UTC", after, 2) == ["2026-04-01 00:00", "2027-04-01 00:00"]


def test_R215_both_0_and_7_are_sunday() -> None:
    monday = datetime(2026, 6, 1, tzinfo=UTC)
    for expression in ("0 0 * * 0", "0 0 * * 7", "0 0 * * SUN", "0 0 * * 6-7"):
        assert "2026-06-07 00:00" in times(expression, "UTC", monday, 2)


@pytest.mark.parametrize(
    ("expression", "match"),
    [
        ("@daily", "shortcuts"),
        ("  @reboot", "shortcuts"),
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("0 * * * * *", "five fields"),
        ("* * * * * 2026", "five fields"),
        ("0 0 L * *", "day-of-month: 'L'"),
        ("0 0 LW * *", "day-of-month: 'LW'"),
        ("0 0 15W * *", "day-of-month: '15W'"),
        ("0 0 * * 5L", "day-of-week: '5L'"),
        ("0 0 * * 5#2", "day-of-week: '5#2'"),
        ("0 0 ? * *", "day-of-month: '?'"),
        ("H * * * *", "minute: 'H'"),
        ("60 * * * *", "minute: out of range"),
        ("* 24 * * *", "hour: out of range"),
        ("* * 0 * *", "day-of-month: out of range"),
        ("* * * 13 *", "month: out of range"),
        ("* * * * 8", "day-of-week: '8'"),
        ("* * * * MONDAY", "day-of-week: 'MONDAY'"),
        ("30-10 * * * *", "minute: out of range"),
        ("*/0 * * * *", "minute: out of range"),
        ("1,,2 * * * *", "minute: '1,,2'"),
        ("-1 * * * *", "minute: '-1'"),
        ("٣ * * * *", "minute: '٣'"),
        ("1,2," * 100 + "3 * * * *", "at most 256"),
    ],
)
def test_R215_everything_else_is_refused(expression: str, match: str) -> None:
    with pytest.raises(BadExpression, match=match.replace("?", r"\?")):
        parse(expression)


SNIPPETS = st.sampled_from(
    [
        "*",
        "/",
        "-",
        ",",
        "0",
        "1",
        "7",
        "29",
        "31",
        "59",
        "99",
        "L",
        "W",
        "#",
        "?",
        "@",
        "MON",
        "feb",
    ]
)
WORDS = st.lists(SNIPPETS, min_size=1, max_size=5).map("".join)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(WORDS, min_size=4, max_size=6).map(" ".join)))
def test_R215_whatever_is_sent_is_an_expression_or_a_refusal(text: str) -> None:
    try:
        cron = parse(text)
    except BadExpression as error:
        assert str(error)
        return
    after = datetime(2026, 1, 1, tzinfo=UTC)
    assert next(cron.times(UTC, after)) > after


@pytest.mark.parametrize("expression", ["0 0 30 2 *", "0 0 31 2,4,6 *", "0 0 31 11 */2"])
def test_Q19_a_day_that_never_comes_is_refused(expression: str) -> None:
    with pytest.raises(BadExpression, match="never comes"):
        parse(expression)


def test_Q19_of_two_days_either_matches() -> None:
    sunday = datetime(2026, 11, 1, tzinfo=UTC)
    assert times("0 0 13 * 5", "UTC", sunday, 3) == [
        "2026-11-06 00:00",
        "2026-11-13 00:00",
        "2026-11-20 00:00",
    ]
    assert times("0 0 30 2 1", "UTC", datetime(2027, 2, 1, tzinfo=UTC), 1) == ["2027-02-08 00:00"]


def test_rare_days_are_found_and_the_search_ends() -> None:
    after = datetime(2026, 1, 1, tzinfo=UTC)
    assert times("0 0 29 2 *", "UTC", after, 2) == ["2028-02-29 00:00", "2032-02-29 00:00"]
    assert times("0 0 29 2 */7", "Asia/Kathmandu", after, 9) == [
        "2032-02-28 18:15",
        "2060-02-28 18:15",
    ]
    century = datetime(2096, 3, 1, tzinfo=UTC)
    assert times("0 0 29 2 *", "UTC", century, 1) == ["2104-02-29 00:00"]
