import random
import re

import pytest
from structlog.testing import capture_logs

from intramuros.control.api.boundary import (
    Boundary,
    Message,
    Receive,
    Scope,
    Send,
    context_of,
    encode,
    refusal,
)
from intramuros.kernel.errors import Conflict, InvalidRequest, RateLimited, Unavailable
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from tests.unit.control.api.asgi import Answer, call

pytestmark = pytest.mark.anyio

ORGANIZATION = "00000000-0000-0000-0000-000000000001"


def raising(error: Exception, *, started: bool = False) -> object:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


async def reading(_scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the size of the body."""
    size, more = 0, True
    while more:
        message: Message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


@pytest.fixture
def wrap(ids: IdFactory) -> object:
    def make(app: object) -> Boundary:
        return Boundary(app, ids=ids, organization_id=ORGANIZATION, max_body_bytes=10)

    return make


async def test_domain_errors_become_envelopes(wrap) -> None:
    error = InvalidRequest("name: too long", code="some_code", details={"limit": 3})
    answer = await call(wrap(raising(error)))
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "name: too long",
            "details": {"error_code": "some_code", "limit": 3},
        },
        "request_id": answer.headers["request-id"],
    }


@pytest.mark.parametrize(
    ("error", "status", "header"),
    [
        (Conflict("no"), 409, ("x-should-retry", "false")),
        (RateLimited("slow", retry_after_s=2.4), 429, ("retry-after", "2")),
        (Unavailable("away"), 503, None),
    ],
)
async def test_hints_travel_in_headers(wrap, error, status: int, header) -> None:
    answer = await call(wrap(raising(error)))
    assert answer.status == status
    assert header is None or answer.headers[header[0]] == header[1]


async def test_the_unforeseen_is_a_500_that_tells_nothing(wrap) -> None:
    answer = await call(wrap(raising(ZeroDivisionError("secret detail"))))
    assert answer.status == 500
    assert answer.json["error"]["type"] == "api_error"
    assert answer.headers["request-id"] in answer.json["error"]["message"]
    assert b"secret" not in answer.body
    assert b"ZeroDivision" not in answer.body


@pytest.mark.parametrize("error", [RuntimeError("x"), InvalidRequest("y")])
async def test_half_an_answer_is_broken_off_not_completed(wrap, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        await call(wrap(raising(error, started=True)))
    assert "ended=False" in caught.value.__notes__[0]


async def test_callers_learn_their_workspace_once_they_are_known(wrap) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).workspace_id = "wrkspc_1"
        await reading(scope, receive, send)

    known, unknown = await call(wrap(app)), await call(wrap(reading))
    assert known.headers["anthropic-workspace-id"] == "wrkspc_1"
    assert known.headers["anthropic-organization-id"] == ORGANIZATION
    assert set(unknown.headers) == {"request-id"}
    assert known.headers["request-id"] != unknown.headers["request-id"]


async def test_bodies_are_limited_by_length_and_by_count(wrap) -> None:
    async def post(*pieces: bytes, length: str | None = None) -> Answer:
        headers = {} if length is None else {"content-length": length}
        return await call(wrap(reading), method="POST", headers=headers, body=pieces)

    assert (await post(b"12345", b"67890")).body == b"10"
    assert (await post(b"12345", b"67890", b"!")).status == 413
    assert (await post(b"", length="11")).status == 413
    assert (await post(b"", length="9" * 400)).status == 413
    assert (await post(b"x", length="not a number")).status == 200
    assert (await post(b"", length="11")).json["error"]["type"] == "request_too_large"


async def test_R032_uploads_have_their_own_limit() -> None:
    app = Boundary(
        reading,
        ids=IdFactory(ManualClock(), random.Random(1).randbytes),
        organization_id=ORGANIZATION,
        max_body_bytes=10,
        uploads=[(re.compile(r"/v1/files"), 20)],
    )
    sizes = {"/v1/files": 20, "/v1/files/x": 10, "/v1/agents": 10}
    for path, most in sizes.items():
        assert (await call(app, path, method="POST", body=[b"x" * most])).status == 200
        assert (await call(app, path, method="POST", body=[b"x" * (most + 1)])).status == 413
    assert (await call(app, "/v1/files", body=[b"x" * 11])).status == 413


async def test_other_protocols_pass_through(wrap) -> None:
    seen = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    await wrap(app)({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]


def test_json_is_compact_utf8_and_finite() -> None:
    assert encode({"a": ["é", 1]}) == '{"a":["é",1]}'.encode()
    # JSON has no such number, and an answer that cannot be read helps nobody.
    assert encode([float("nan"), float("inf")]) == b"[null,null]"


def test_plain_refusals_have_a_type() -> None:
    assert refusal(404, "m", "req_1")["error"] == {"type": "not_found_error", "message": "m"}
    assert refusal(405, "m", "req_1")["error"] == {"type": "invalid_request_error", "message": "m"}


async def test_headers_that_were_told_go_with_every_answer(wrap) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context_of(scope).headers["anthropic-ratelimit-requests-remaining"] = "0"
        raise RateLimited("slow down", retry_after_s=7)

    answer = await call(wrap(app))
    assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "0"


async def test_what_was_foreseen_is_logged_in_a_line_now_and_then(wrap) -> None:
    error = Unavailable("the database refused the write; nothing was changed")
    error.__cause__ = OSError("the disk is full\nand so on")
    boundary = wrap(raising(error))
    with capture_logs() as logs:
        for _ in range(50):
            assert (await call(boundary)).status == 503
    (line,) = [one for one in logs if one["event"] == "request_failed"]
    assert line["cause"] == "OSError: the disk is full"
    assert line["error"] == "the database refused the write; nothing was changed"
    assert "exc_info" not in line
