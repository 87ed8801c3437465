from typing import Any

import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.releases import MAX_EXCERPT_CHARS, ReleaseRequest, ReleaseVerdict

ASKED: dict[str, Any] = {
    "id": "sevt_1",
    "subject": "tool_result",
    "rules": {"jwt": 2},
    "size_bytes": 10,
    "digest": "0" * 32,
    "excerpt": "a [masked jwt]",
    "wait_s": 600,
}


def test_a_question_says_no_more_than_it_may() -> None:
    assert ReleaseRequest.model_validate(ASKED).rules == {"jwt": 2}


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "../x"},
        {"id": ""},
        {"subject": "other"},
        {"rules": {}},
        {"rules": {"jwt": 0}},
        {"rules": {"": 1}},
        {"rules": {f"r{n}": 1 for n in range(201)}},
        {"size_bytes": -1},
        {"digest": "a" * 64},
        {"excerpt": "x" * (MAX_EXCERPT_CHARS + 1)},
        {"wait_s": 0},
        {"wait_s": 86_401},
        {"content": "all of it"},
    ],
)
def test_anything_else_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReleaseRequest.model_validate({**ASKED, **wrong})


@pytest.mark.parametrize("wrong", [{}, {"result": "yes"}, {"result": "deny", "reason": "x"}])
def test_an_answer_is_one_of_two(wrong: dict[str, Any]) -> None:
    assert ReleaseVerdict.model_validate({"result": "allow"}).deny_message is None
    with pytest.raises(ValidationError):
        ReleaseVerdict.model_validate(wrong)
