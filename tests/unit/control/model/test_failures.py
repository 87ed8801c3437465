import httpx2

from intramuros.control.model.failures import MESSAGE_LIMIT, clean, retry_after_s


def test_retry_after_ignores_nonsense() -> None:
    for text in ("soon", "-1", "inf", "nan", ""):
        assert retry_after_s(httpx2.Headers({"retry-after": text})) is None
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "9"}) == 0.25


def test_a_time_to_retry_at_is_as_far_away_as_the_providers_clock_says() -> None:
    now, later = "Sat, 21 Nov 2026 10:00:00 GMT", "Sat, 21 Nov 2026 10:01:30 GMT"
    assert retry_after_s({"retry-after": later, "date": now}) == 90.0
    assert retry_after_s(httpx2.Headers({"Retry-After": later, "Date": now})) == 90.0
    assert retry_after_s({"retry-after": now, "date": later}) is None, "that was before"
    assert retry_after_s({"retry-after": later}) is None, "nobody says what time it is there"
    assert retry_after_s({"retry-after": later, "date": "Sat, 21 Nov 2026 10:00:00 -0000"}) is None
    assert retry_after_s({"retry-after": "Sat, 99 Nov 2026 99:00:00 GMT", "date": now}) is None


def test_words_of_providers_are_bounded_and_hold_no_key() -> None:
    assert clean("bad key k-123456", "k-123456") == "bad key [our key]"
    assert len(clean("x" * 9999, None)) == MESSAGE_LIMIT
