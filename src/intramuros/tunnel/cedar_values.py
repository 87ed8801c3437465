"""JSON as values of Cedar, without losing what a policy must see. Pure.

Cedar has 64-bit integers, texts, booleans, sets and records, and decimals of four digits. So:

* a whole number stays one, also when written as ``5.0``; one beyond 64 bits becomes its text;
* another number becomes a decimal if four digits hold it, else its text;
* ``null`` becomes the empty record: ``has`` sees the member, and comparing it errs or fails;
* a list becomes a set, which has no order and no duplicates.

What no value of Cedar can stand for raises :class:`Unjudgeable`, and such a call is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

MAX_DEPTH: Final = 32
MAX_VALUES: Final = 10_000
MAX_CHARS: Final = 256 * 1024
_LONG: Final = 2**63
# The largest decimal of Cedar is (2**63 - 1) / 10**4.
_DECIMAL: Final = 922_337_203_685_477
# Cedar's JSON takes objects with these members for something else than records.
_RESERVED: Final = frozenset({"__entity", "__extn", "__expr"})


class Unjudgeable(ValueError):
    """The arguments are too large, too deep, or no value of Cedar."""


@dataclass
class _Room:
    values: int = MAX_VALUES
    chars: int = MAX_CHARS

    def take(self, chars: int) -> None:
        self.values -= 1
        self.chars -= chars
        if self.values < 0 or self.chars < 0:
            raise Unjudgeable("the arguments are too large to be judged")


def cedar_record(arguments: Mapping[str, object]) -> dict[str, object]:
    """Return arguments in Cedar's JSON.

    Raises:
        Unjudgeable: they cannot be told to a policy.
    """
    return _record(arguments, _Room(), 0)


def _record(value: Mapping[str, object], room: _Room, depth: int) -> dict[str, object]:
    if not _RESERVED.isdisjoint(value):
        raise Unjudgeable("the arguments have a member that Cedar gives another meaning")
    if len({key.casefold() for key in value}) < len(value):
        # Some servers take the last of them for either; a policy would look at one.
        raise Unjudgeable("the arguments have two members that differ by case alone")
    return {_text(key, room): _value(item, room, depth + 1) for key, item in value.items()}


def _value(value: object, room: _Room, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise Unjudgeable("the arguments are nested too deeply to be judged")
    room.take(0)
    if value is None:
        return {}
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, room)
    if isinstance(value, int):
        return value if -_LONG <= value < _LONG else _text(str(value), room)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return _record(value, room, depth)
    if isinstance(value, list):
        return [_value(item, room, depth + 1) for item in value]
    raise Unjudgeable("the arguments hold something that is no JSON")


def _number(value: float) -> object:
    if math.isfinite(value) and value.is_integer() and -_LONG <= value < _LONG:
        return int(value)
    if math.isfinite(value) and abs(value) < _DECIMAL:
        exact = Decimal(repr(value))
        if exact == round(exact, 4):
            return {"__extn": {"fn": "decimal", "arg": f"{exact:.4f}"}}
    return repr(value)


def _text(value: str, room: _Room) -> str:
    room.take(len(value))
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise Unjudgeable("the arguments hold text that is no Unicode")
    return value
