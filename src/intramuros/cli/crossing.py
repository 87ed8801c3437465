"""The cross-wall report: what crossed for a session, which way, by which rule. Pure.

It is made from the hash-chained records of the programs inside the wall, not from what the control
plane says of itself.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from intramuros.protocol.audit import Head, verify

INWARD: Final = "in"
OUTWARD: Final = "out"
HELD: Final = "held"
"""Of what was to leave, and did not."""
FOUND: Final = "found"
"""Of what the filters found in what was to leave."""


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
    masked: int = 0
    """How many places were masked before it left."""
    rules: Mapping[str, int] = field(default_factory=dict)
    """How often each rule of the filters matched."""
    found: Sequence[str] = ()
    """Keyed digests of what they found."""


@dataclass(frozen=True)
class Total:
    """The crossings of one program, direction and rule, or what one rule of its filters found."""

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
        for direction, size, digest, name in _shapes(kind, fields):
            found.append(
                Crossing(
                    at=str(record["at"]),
                    program=program,
                    direction=direction,
                    what=" ".join(str(fields[key]) for key in name if fields.get(key)),
                    rule=_rule(kind, fields),
                    bytes=_whole(fields.get(size)),
                    sha256=str(fields.get(digest, "")),
                    **_filtered(direction, fields),
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
    for crossing in found:
        for rule, count in crossing.rules.items():
            key = (crossing.program, FOUND, rule)
            sums[key] = (sums.get(key, (0, 0))[0] + count, 0)
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


# Of the others, the members that name what crossed.
_NAMES: Final = ("path", "skill_id", "file_id", "store_id", "call_id", "repository", "release_id")
# What names an item of the queue, and carries nothing.
_EMPTY: Final = frozenset({"work.claim"})


def _shapes(kind: str, fields: Mapping[str, object]) -> tuple[_Shape, ...]:
    """Return what a record says crossed: that of a kind of its own, or whatever has a size."""
    if kind.endswith(".withheld"):
        return ((HELD, "bytes", "sha256", _NAMES),)
    if kind in _SHAPES or kind in _EMPTY or "bytes" not in fields:
        return _SHAPES.get(kind, ())
    direction = fields.get("direction")
    if direction not in (INWARD, OUTWARD):
        return ()
    return ((str(direction), "bytes", "sha256", _NAMES),)


def _filtered(direction: str, fields: Mapping[str, object]) -> dict[str, Any]:
    rules, found = fields.get("rules"), fields.get("found")
    if direction == INWARD or not isinstance(rules, Mapping) or "subject" in fields:
        return {}
    return {
        "masked": _whole(fields.get("masked")),
        "rules": {str(rule): _whole(count) for rule, count in rules.items()},
        "found": tuple(found) if isinstance(found, list) else (),
    }


def _rule(kind: str, fields: Mapping[str, object]) -> str:
    if kind == "egress.end":
        return f"egress {fields.get('rule', '')}".strip()
    if "upstream" in fields:
        return f"route {str(fields.get('host', '')).partition('.')[0]}"
    if kind not in _SHAPES:
        return f"{kind.replace('.', ' ')} {fields.get('rule', '')}".strip()
    return f"tool {fields.get('rule', '')}".strip()


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
