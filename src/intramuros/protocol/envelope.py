"""Errors, pages and headers on the wire; used by the server and by our worker. Pure."""

from collections.abc import Mapping
from typing import Final

from intramuros.kernel.errors import DomainError, Kind

MANAGED_AGENTS_BETA: Final = "managed-agents-2026-04-01"
MEMORY_BETA: Final = "agent-memory-2026-07-22"
WEBHOOKS_BETA: Final = "webhooks-2026-10-07"
DREAMING_BETA: Final = "dreaming-2026-04-21"
TUNNELS_BETA: Final = "mcp-tunnels-2026-06-22"
SIGN_OUT_BETA: Final = "admin-user-sign-out-2026-10-08"
BETA_HEADER: Final = "anthropic-beta"
VERSION_HEADER: Final = "anthropic-version"
WORKSPACE_HEADER: Final = "anthropic-workspace-id"
PROFILE_HEADER: Final = "anthropic-user-profile-id"
ORGANIZATION_HEADER: Final = "anthropic-organization-id"
WORKER_HEADER: Final = "anthropic-worker-id"
REQUEST_ID_HEADER: Final = "request-id"

# Request bodies of sessions, agents and environments (contract 1.26).
MAX_BODY_BYTES: Final = 32 * 1024 * 1024

# Kind → status and wire type (contract 3.5, 3.6).
_WIRE: Final[Mapping[Kind, tuple[int, str]]] = {
    Kind.INVALID_REQUEST: (400, "invalid_request_error"),
    Kind.AUTHENTICATION: (401, "authentication_error"),
    Kind.PERMISSION: (403, "permission_error"),
    Kind.NOT_FOUND: (404, "not_found_error"),
    Kind.CONFLICT: (409, "conflict_error"),
    Kind.CONTENT_CHANGED: (409, "memory_precondition_failed_error"),
    Kind.PATH_TAKEN: (409, "memory_path_conflict_error"),
    Kind.PRECONDITION_FAILED: (412, "invalid_request_error"),
    Kind.TOO_LARGE: (413, "request_too_large"),
    Kind.RATE_LIMITED: (429, "rate_limit_error"),
    Kind.INTERNAL: (500, "api_error"),
    Kind.UNAVAILABLE: (503, "api_error"),
    Kind.TIMED_OUT: (504, "timeout_error"),
    Kind.OVERLOADED: (529, "overloaded_error"),
}


def parse_betas(header: str | None) -> frozenset[str]:
    """Return the set of betas in an ``anthropic-beta`` header (contract 1.11)."""
    return frozenset(part.strip() for part in (header or "").split(",") if part.strip())


def status_of(error: DomainError) -> int:
    """Return the HTTP status of a domain error."""
    return _WIRE[error.kind][0]


def error_body(error: DomainError, request_id: str) -> dict[str, object]:
    """Return the error envelope (contract 3.1, 3.2)."""
    inner: dict[str, object] = {"type": _WIRE[error.kind][1], "message": error.message}
    details = dict(error.hints.details)
    if error.kind is Kind.PATH_TAKEN:
        # The one error whose particulars stand beside its message (contract-2 R149).
        inner.update(details)
        details = {}
    if error.hints.code:
        details["error_code"] = error.hints.code
    if details:
        inner["details"] = details
    return {"type": "error", "error": inner, "request_id": request_id}


def error_headers(error: DomainError) -> dict[str, str]:
    """Return the retry headers of an error (contract 1.23, 1.24)."""
    headers: dict[str, str] = {}
    if error.hints.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.hints.retry_after_s)))
    if error.hints.should_retry is not None:
        headers["x-should-retry"] = "true" if error.hints.should_retry else "false"
    return headers
