"""What a worker holds back until a person lets it out: our own, under ``/x/``.

Before somebody allows it, only what stands here is outside: rules, counts, a size, a keyed digest
and an excerpt in which everything that any rule found is masked.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from intramuros.protocol.resources.base import Request

MAX_EXCERPT_CHARS: Final = 4_000
MAX_REASON_CHARS: Final = 1_000
MAX_RULES: Final = 200
MAX_WAIT_S: Final = 24 * 3600
ID_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$"

Verdict = Literal["allow", "deny"]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class ReleaseRequest(Request):
    """A worker's question.

    Args:
        id: the same when the worker asks again, as after a restart; of a result the call's id.
        subject: what is held back.
        rules: how often each rule matched.
        size_bytes: of what would leave.
        digest: of what would leave, keyed by the worker.
        excerpt: its beginning, masked.
        wait_s: how long the worker still waits for an answer.
    """

    id: Annotated[str, StringConstraints(pattern=ID_PATTERN)]
    subject: Literal["tool_result", "output", "memory"]
    rules: Annotated[
        dict[_Name, Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=MAX_RULES)
    ]
    size_bytes: Annotated[int, Field(ge=0)]
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    excerpt: Annotated[str, StringConstraints(max_length=MAX_EXCERPT_CHARS)] = ""
    wait_s: Annotated[int, Field(ge=1, le=MAX_WAIT_S)]


class ReleaseVerdict(Request):
    """A person's answer; ``deny_message`` is read by the model."""

    result: Verdict
    deny_message: Annotated[str, StringConstraints(max_length=MAX_REASON_CHARS)] | None = None
