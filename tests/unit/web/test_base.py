from intramuros.web.base import Code, refusal


def test_c6_21_a_refusal_names_its_code() -> None:
    answer = refusal(Code.NOT_ALLOWED, "why.", host="x.com")
    assert answer.content == [{"type": "text", "text": "url_not_allowed: why."}]
    assert answer.is_error
    assert answer.searches == 0
    assert answer.seen == {"error": "url_not_allowed", "host": "x.com"}
