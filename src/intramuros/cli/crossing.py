"""The cross-wall report: what crossed for a session, which way, by which rule. Pure.

It is made from the hash-chained records of the programs inside the wall, not from what the control
plane says of itself.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from intramuros.protocol.audit import Head, verify

INWARD: Final = "in"
OUTWARD: Final = "out"


@dataclass(frozen=True)
class Crossing:
    """One thing that crossed: ``what`` names it, ``rule`` says why it was let through."""

    at: str
    program: str
    direction: str
    what: str
    rule: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Total:
    """The crossings of one program, direction and rule."""

    program: str
    direction: str
    rule: str
    count: int
    bytes: int


def checked(lines: Iterable[str]) -> tuple[list[dict[str, object]], Head]:
    """Return a log's records after verifying its whole chain.

    Raises:
        BrokenChain: the log was changed.
    """
    kept = list(lines)
    head = verify(kept)
    return [json.loads(line) for line in kept], head


def crossings(
    program: str, records: Iterable[Mapping[str, object]], session_id: str | None = None
) -> list[Crossing]:
    """Return what crossed according to a worker's or a gateway's records.

    Args:
        program: ``worker`` or ``gateway``.
        records: parsed and verified records.
        session_id: only this session's; every session's when None.
    """
    found = []
    for record in records:
        fields = record["fields"]
        assert isinstance(fields, Mapping)
        session = fields.get("session_id", fields.get("session"))
        if session_id is not None and session != session_id:
            continue
        kind = str(record["kind"])
        for direction, size, digest, name in _SHAPES.get(kind, ()):
            found.append(
                Crossing(
                    at=str(record["at"]),
                    program=program,
                    direction=direction,
                    what=" ".join(str(fields[key]) for key in name if fields.get(key)),
                    rule=_rule(kind, fields),
                    bytes=_whole(fields.get(size)),
                    sha256=str(fields.get(digest, "")),
                )
            )
    return found


def totals(found: Iterable[Crossing]) -> list[Total]:
    """Return the sums by program, direction and rule, in the order of first occurrence."""
    sums: dict[tuple[str, str, str], tuple[int, int]] = {}
    for crossing in found:
        key = (crossing.program, crossing.direction, crossing.rule)
        count, size = sums.get(key, (0, 0))
        sums[key] = (count + 1, size + crossing.bytes)
    return [Total(*key, count, size) for key, (count, size) in sums.items()]


# Kind of record → direction, the members with size and digest, the members that name it.
# A sandbox's request and its answer are recorded together, when both are known.
_Shape = tuple[str, str, str, tuple[str, ...]]
_REQUESTED: Final = ("host", "method", "path")
_SHAPES: Final[Mapping[str, tuple[_Shape, ...]]] = {
    "tool.call": ((INWARD, "bytes", "sha256", ("tool",)),),
    "tool.result": ((OUTWARD, "bytes", "sha256", ("tool",)),),
    "mcp.request": ((INWARD, "request_bytes", "request_sha256", ("method", "name")),),
    "mcp.response": ((OUTWARD, "response_bytes", "response_sha256", ("method", "name")),),
    "egress.end": (
        (OUTWARD, "request_bytes", "request_sha256", _REQUESTED),
        (INWARD, "response_bytes", "response_sha256", _REQUESTED),
    ),
}


def _rule(kind: str, fields: Mapping[str, object]) -> str:
    if kind == "egress.end":
        return f"egress {fields.get('rule', '')}".strip()
    if "upstream" in fields:
        return f"route {str(fields.get('host', '')).partition('.')[0]}"
    return f"tool {fields.get('rule', '')}".strip()


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
