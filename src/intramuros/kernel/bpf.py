"""Classic BPF for system-call filters: decisions on a call's number, then on its arguments. Pure.

A decision is a tree; each leaf is what the kernel is to do. :func:`by_number` finds a call's tree
by halving, so that a long list costs few steps (and none at all where the kernel remembers that a
number always passes: Linux 5.11 and later).
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Code = list[tuple[int, int, int, int]]

_LD, _JEQ, _JSET, _JGE, _JA, _AND, _RET = 0x20, 0x15, 0x45, 0x35, 0x05, 0x54, 0x06
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_NR, _ARCH, _ARGUMENTS = 0, 4, 16
_FAR: Final = 255
"""How many instructions a conditional jump can pass over."""
MAX_INSTRUCTIONS: Final = 4096
"""The kernel takes no more."""


@dataclass(frozen=True)
class Answer:
    """Let the call through (0), or make it fail with an error."""

    error: int = 0


@dataclass(frozen=True)
class OneOf:
    """Go on with ``then`` if an argument is one of some values, else with ``otherwise``.

    Arguments are looked at as 32 bits, as the kernel does with all that are judged by this.

    Args:
        argument: from 0.
        mask: bits of it that count.
    """

    argument: int
    values: tuple[int, ...]
    then: "Decision"
    otherwise: "Decision"
    mask: int | None = None


@dataclass(frozen=True)
class AnyBit:
    """Go on with ``then`` if an argument has any of some bits, else with ``otherwise``."""

    argument: int
    bits: int
    then: "Decision"
    otherwise: "Decision"


Decision = Answer | OneOf | AnyBit


def program(audit: int, numbers: Mapping[int, Decision], steps: Sequence[tuple[int, int]]) -> bytes:
    """Return a filter, ready for the kernel.

    Args:
        audit: the one architecture whose calls are judged; those of another (32-bit mode) would be
            numbered differently and all meet the error of the last step.
        numbers: decisions on single calls.
        steps: for all others: (first number, error) in rising order, from 0 on.

    Raises:
        ValueError: it is longer than the kernel takes.
    """
    code: Code = [
        (_LD, 0, 0, _ARCH),
        (_JEQ, 1, 0, audit),
        (_RET, 0, 0, _ERRNO | steps[-1][1]),
        (_LD, 0, 0, _NR),
        *_halve(_pieces(numbers, steps)),
    ]
    if len(code) > MAX_INSTRUCTIONS:
        raise ValueError(f"a filter of {len(code)} instructions is too long")
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _pieces(
    numbers: Mapping[int, Decision], steps: Sequence[tuple[int, int]]
) -> list[tuple[int, Decision]]:
    """Return (first number, decision) of ranges that cover all numbers, neighbours differing."""
    starts = {0, *(first for first, _ in steps)}
    starts.update(at for number in numbers for at in (number, number + 1))
    found: list[tuple[int, Decision]] = []
    for start in sorted(starts):
        error = next(error for first, error in reversed(steps) if first <= start)
        decision = numbers.get(start, Answer(error))
        if not found or found[-1][1] != decision:
            found.append((start, decision))
    return found


def _halve(pieces: list[tuple[int, Decision]]) -> Code:
    if len(pieces) == 1:
        return _decide(pieces[0][1])
    middle = len(pieces) // 2
    below, above = _halve(pieces[:middle]), _halve(pieces[middle:])
    first = pieces[middle][0]
    if len(below) <= _FAR:
        return [(_JGE, len(below), 0, first), *below, *above]
    return [(_JGE, 0, 1, first), (_JA, 0, 0, len(below)), *below, *above]


def _decide(decision: Decision) -> Code:
    if isinstance(decision, Answer):
        return [(_RET, 0, 0, _ERRNO | decision.error if decision.error else _ALLOW)]
    then, otherwise = _decide(decision.then), _decide(decision.otherwise)
    # The low word: both machines are little-endian.
    load: Code = [(_LD, 0, 0, _ARGUMENTS + 8 * decision.argument)]
    if isinstance(decision, AnyBit):
        return [*load, (_JSET, len(otherwise), 0, decision.bits), *otherwise, *then]
    if decision.mask is not None:
        load.append((_AND, 0, 0, decision.mask))
    last = len(decision.values) - 1
    tests = [(_JEQ, last - i + len(otherwise), 0, v) for i, v in enumerate(decision.values)]
    return [*load, *tests, *otherwise, *then]
