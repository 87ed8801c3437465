"""The error tree. Pure.

::

    IntramurosError
    ├── DomainError            what a caller did or met; becomes an API error at one boundary
    │   ├── InvalidRequest     the request cannot be right; fix it
    │   ├── AuthenticationFailed   no credential, or one that is unknown, expired or revoked
    │   ├── PermissionDenied   a valid credential of the wrong kind or scope
    │   ├── NotFound           no such thing for this caller
    │   ├── Conflict           the thing is in another state
    │   │   ├── ContentChanged a memory no longer holds what the caller last saw
    │   │   └── PathTaken      another memory is at that path
    │   ├── PreconditionFailed the caller's view is stale
    │   ├── TooLarge           over a limit
    │   ├── RateLimited        slow down
    │   ├── Unavailable        a dependency is away; try again
    │   └── Overloaded         we are full; try again
    └── OperatorError          the installation is wrong; says what to do

The public message reaches the caller; the private cause (``raise … from``) reaches only the log.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar


class Kind(StrEnum):
    """What went wrong, independent of any transport."""

    INVALID_REQUEST = "invalid_request"
    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    CONTENT_CHANGED = "content_changed"
    PATH_TAKEN = "path_taken"
    PRECONDITION_FAILED = "precondition_failed"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    TIMED_OUT = "timed_out"
    OVERLOADED = "overloaded"
    INTERNAL = "internal"


class IntramurosError(Exception):
    """Root of everything we raise on purpose."""


@dataclass(frozen=True)
class Hints:
    """What a caller's machine may act on.

    ``code`` is the contract's ``error.details.error_code``; ``details`` goes beside it;
    ``retry_after_s`` is in seconds; ``should_retry`` overrides the SDK's policy (contract 1.24).
    """

    code: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)
    retry_after_s: float | None = None
    should_retry: bool | None = None


class DomainError(IntramurosError):
    """A refusal with a public message and machine-readable hints."""

    kind: ClassVar[Kind] = Kind.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hints = Hints(code, details or {}, retry_after_s, should_retry)


class InvalidRequest(DomainError):
    """The request cannot be right: name the field and what was expected."""

    kind = Kind.INVALID_REQUEST


class AuthenticationFailed(DomainError):
    """No usable credential: send a key that exists, is not expired and not revoked."""

    kind = Kind.AUTHENTICATION


class PermissionDenied(DomainError):
    """The credential is valid but not for this: use one with the named kind or scope."""

    kind = Kind.PERMISSION


class NotFound(DomainError):
    """No such thing in this workspace: check the id."""

    kind = Kind.NOT_FOUND


class Conflict(DomainError):
    """The thing is in another state: read it again. Deterministic unless told otherwise."""

    kind = Kind.CONFLICT

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: Mapping[str, object] | None = None,
        should_retry: bool = False,
    ) -> None:
        super().__init__(message, code=code, details=details, should_retry=should_retry)


class ContentChanged(Conflict):
    """A memory no longer holds what the caller last saw: read it again and merge."""

    kind = Kind.CONTENT_CHANGED


class PathTaken(Conflict):
    """Another memory is at that path: the details name it."""

    kind = Kind.PATH_TAKEN


class PreconditionFailed(DomainError):
    """The caller's view is stale: use the state in the details."""

    kind = Kind.PRECONDITION_FAILED


class TooLarge(DomainError):
    """Over a limit: the message names the limit."""

    kind = Kind.TOO_LARGE


class RateLimited(DomainError):
    """Too many requests: wait ``retry_after_s``."""

    kind = Kind.RATE_LIMITED


class Unavailable(DomainError):
    """A dependency is away: try again later."""

    kind = Kind.UNAVAILABLE


class TimedOut(Unavailable):
    """A dependency took too long: try again later."""

    kind = Kind.TIMED_OUT


class Overloaded(DomainError):
    """We are full: try again later."""

    kind = Kind.OVERLOADED


class OperatorError(IntramurosError):
    """The installation is wrong; the command line prints one line and exits with status 2.

    Args:
        problem: what is wrong, in one clause, naming the thing.
        fix: what to do about it, in one clause.
    """

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}: {fix}")
        self.problem = problem
        self.fix = fix
