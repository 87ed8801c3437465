"""What a filter found in a text, and what becomes of the text. Pure.

Positions are in bytes of UTF-8, begin included, end not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

HELD: Final = "credential"
"""The rule of the secrets that the worker itself holds."""


class Action(IntEnum):
    """What to do with what a rule finds; of several, the greatest counts."""

    PASS = 0
    """Let it go, but count it in the record."""
    MASK = 1
    """Put ``[masked RULE]`` in its place."""
    ASK = 2
    """Send nothing of the text until a person allows it."""
    BLOCK = 3
    """Send nothing of the text."""


ACTIONS: Final[Mapping[str, Action]] = {action.name.lower(): action for action in Action}


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place where a rule matches."""

    start: int
    end: int
    rule: str

    def moved(self, by: int) -> "Finding":
        """Return the same finding in a text that begins earlier or later."""
        return Finding(self.start + by, self.end + by, self.rule)


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes to mask: ``rules`` names all that matched somewhere in them, first the first."""

    start: int
    end: int
    rules: tuple[str, ...]

    @property
    def mask(self) -> str:
        """What stands in their place."""
        return f"[masked {HELD if HELD in self.rules else self.rules[0]}]"


def spans(found: Iterable[Finding]) -> list[Span]:
    """Join findings that overlap, in the order of the text."""
    joined: list[Span] = []
    for one in sorted(found):
        if joined and one.start < joined[-1].end:
            last = joined[-1]
            rules = last.rules if one.rule in last.rules else (*last.rules, one.rule)
            joined[-1] = Span(last.start, max(last.end, one.end), rules)
        else:
            joined.append(Span(one.start, one.end, (one.rule,)))
    return joined


def masked(data: bytes, places: Sequence[Span]) -> bytes:
    """Return a text with each span's mask in its place.

    A mask never cuts a character in two: spans grow to whole characters.
    """
    out: list[bytes] = []
    position = 0
    for place in places:
        start, end = max(position, _back(data, place.start)), _on(data, place.end)
        out += (data[position:start], place.mask.encode())
        position = max(position, end)
    out.append(data[position:])
    return b"".join(out)


def _back(data: bytes, at: int) -> int:
    while 0 < at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _on(data: bytes, at: int) -> int:
    while at < len(data) and data[at] & 0xC0 == 0x80:
        at += 1
    return at
