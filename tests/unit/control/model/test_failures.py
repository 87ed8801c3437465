import httpx2

from intramuros.control.model.failures import MESSAGE_LIMIT, clean, retry_after_s


def test_retry_after_ignores_nonsense() -> None:
    for text in ("soon", "-1", "inf", "nan", ""):
        assert retry_after_s(httpx2.Headers({"retry-after": text})) is None
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "9"}) == 0.25


def test_words_of_providers_are_bounded_and_hold_no_key() -> None:
    assert clean("bad key k-123456", "k-123456") == "bad key [our key]"
    assert len(clean("x" * 9999, None)) == MESSAGE_LIMIT
