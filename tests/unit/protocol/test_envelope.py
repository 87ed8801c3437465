import ast
from pathlib import Path

import pytest

from intramuros.kernel.errors import (
    Conflict,
    DomainError,
    InvalidRequest,
    Kind,
    RateLimited,
    TimedOut,
)
from intramuros.protocol.envelope import error_body, error_headers, parse_betas, status_of


def errors_by_kind() -> dict[Kind, DomainError]:
    classes = [DomainError, TimedOut, *DomainError.__subclasses__()]
    return {cls.kind: cls("m") for cls in classes if cls.__module__.startswith("intramuros.kernel")}


@pytest.mark.parametrize(
    ("kind", "status", "wire_type"),
    [
        (Kind.INVALID_REQUEST, 400, "invalid_request_error"),
        (Kind.AUTHENTICATION, 401, "authentication_error"),
        (Kind.PERMISSION, 403, "permission_error"),
        (Kind.NOT_FOUND, 404, "not_found_error"),
        (Kind.CONFLICT, 409, "conflict_error"),
        (Kind.PRECONDITION_FAILED, 412, "invalid_request_error"),
        (Kind.TOO_LARGE, 413, "request_too_large"),
        (Kind.RATE_LIMITED, 429, "rate_limit_error"),
        (Kind.INTERNAL, 500, "api_error"),
        (Kind.UNAVAILABLE, 503, "api_error"),
        (Kind.TIMED_OUT, 504, "timeout_error"),
        (Kind.OVERLOADED, 529, "overloaded_error"),
    ],
)
@pytest.mark.rule("c3_4", "c3_5", "R019", "R020")
def test_every_kind_has_its_status_and_wire_type(kind: Kind, status: int, wire_type: str) -> None:
    error = errors_by_kind()[kind]
    assert status_of(error) == status
    assert error_body(error, "req_1") == {
        "type": "error",
        "error": {"type": wire_type, "message": "m"},
        "request_id": "req_1",
    }


@pytest.mark.rule("c3_2", "R018")
def test_code_and_details_stand_side_by_side() -> None:
    body = error_body(InvalidRequest("m", code="too_old", details={"limit": 3}), "req_1")
    assert body["error"] == {
        "type": "invalid_request_error",
        "message": "m",
        "details": {"limit": 3, "error_code": "too_old"},
    }


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (InvalidRequest("m"), {}),
        (RateLimited("m", retry_after_s=2.4), {"retry-after": "2"}),
        (RateLimited("m", retry_after_s=0.01), {"retry-after": "1"}),
        (Conflict("m"), {"x-should-retry": "false"}),
        (Conflict("m", should_retry=True), {"x-should-retry": "true"}),
    ],
)
@pytest.mark.rule("c1_24")
def test_retry_headers(error: DomainError, headers: dict[str, str]) -> None:
    assert error_headers(error) == headers


@pytest.mark.parametrize(
    ("header", "betas"),
    [
        (None, set()),
        ("", set()),
        (" , ,", set()),
        ("a-1", {"a-1"}),
        ("b-2, a-1 ,b-2", {"a-1", "b-2"}),
    ],
)
@pytest.mark.rule("c1_11", "R004")
def test_betas_are_a_set(header: str | None, betas: set[str]) -> None:
    assert parse_betas(header) == betas


def test_c3_17_what_may_pass_by_itself_is_never_a_final_refusal() -> None:
    """Whoever tells callers to try again raises a status that the SDK's loops survive."""
    survived = {408, 409, 429}
    classes = {type(error).__name__: error for error in errors_by_kind().values()}
    told = 0
    for path in (Path(__file__).parents[3] / "src").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            error = classes.get(call.func.id)
            if error is not None and any(invites(keyword) for keyword in call.keywords):
                told += 1
                status = status_of(error)
                assert status in survived or status >= 500, f"{path}: {call.lineno}"
    assert told > 5
    # What is away or full, or in another state for now, has such a status by its kind alone.
    for kind in (Kind.CONFLICT, Kind.RATE_LIMITED, Kind.UNAVAILABLE, Kind.OVERLOADED):
        status = status_of(errors_by_kind()[kind])
        assert status in survived or status >= 500


def invites(keyword: ast.keyword) -> bool:
    if keyword.arg == "retry_after_s":
        return True
    refused = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
    return keyword.arg == "should_retry" and not refused
