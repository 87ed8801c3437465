import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from intramuros.protocol.web_calls import WebAnswer, WebCall, read_call

CALL = WebCall(
    "sevt_1",
    "web/env_1/web_fetch:sesn_1/sevt_1/9",
    1,
    "sesn_1",
    "web_fetch",
    "https://a.example/",
    allowed=(("a.example",), ("a.example", "b.example")),
    blocked=("c.example",),
    max_tokens=10,
    timeout_s=5.0,
)
TEXT = {"type": "text", "text": "hi"}


def test_a_call_survives_the_wire() -> None:
    assert read_call(json.loads(json.dumps(CALL.dump()))) == CALL
    place = replace(CALL, location={"city": "Bern"}, max_tokens=None, allowed=())
    assert read_call(json.loads(json.dumps(place.dump()))) == place


@pytest.mark.parametrize(
    "change",
    [
        {"type": "work"},
        {"id": ""},
        {"asked": 7},
        {"epoch": "1"},
        {"timeout_s": 0},
        {"max_tokens": "many"},
        # What is not understood must not become a list that allows everything.
        {"allowed": None},
        {"allowed": ["a.example"]},
        {"allowed": [[1]]},
        {"blocked": None},
        {"location": "Bern"},
    ],
)
def test_what_is_not_understood_is_no_call(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="web call"):
        read_call({**json.loads(json.dumps(CALL.dump())), **change})
    with pytest.raises(ValueError, match="web call"):
        read_call(None)


def answer(*content: Any, **more: Any) -> WebAnswer:
    given = {"ticket": "t", "epoch": 1, "content": list(content), **more}
    return WebAnswer.model_validate(given)


def test_an_answer_is_what_a_worker_read() -> None:
    page = {"type": "text", "media_type": "text/plain", "data": "x"}
    assert answer({"type": "document", "source": page}).seen.hosts == []
    assert answer(TEXT, seen={"hosts": ["a.example"], "status": 200, "received": 5}).seen.status


@pytest.mark.parametrize(
    "source",
    [{"type": "url", "url": "https://a.example"}, {"type": "file", "file_id": "file_1"}],
)
def test_an_answer_sends_nobody_elsewhere(source: Any) -> None:
    with pytest.raises(ValidationError, match="inline"):
        answer({"type": "document", "source": source})
    with pytest.raises(ValidationError, match="no images"):
        answer({"type": "image", "source": source})
    for wrong in ([], [TEXT] * 21):
        with pytest.raises(ValidationError):
            answer(*wrong)
    with pytest.raises(ValidationError):
        answer(TEXT, searches=9)
