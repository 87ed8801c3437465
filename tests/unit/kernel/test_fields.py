import dataclasses
from dataclasses import dataclass, field

import pytest

from intramuros.control.session.state import Crew, Member, State
from intramuros.control.session.usage import UsageTotals
from intramuros.kernel.fields import replace


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0
    more: tuple[int, ...] = field(default=())


def test_it_does_what_the_standard_one_does() -> None:
    point = Point(1, 2, (3,))
    assert replace(point) == point
    changed = replace(point, y=5)
    assert changed == dataclasses.replace(point, y=5) == Point(1, 5, (3,))
    assert point == Point(1, 2, (3,)), "the first one stays as it was"
    assert hash(changed) == hash(Point(1, 5, (3,)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        changed.x = 9  # type: ignore[misc]  # that it cannot is the point


def test_a_field_that_is_not_there_is_refused() -> None:
    with pytest.raises(TypeError, match="Point has no field"):
        replace(Point(1), z=1)


@pytest.mark.parametrize("kind", [State, Crew, Member, UsageTotals])
def test_the_classes_it_is_used_for_are_plain(kind: type) -> None:
    assert not hasattr(kind, "__post_init__")
    assert "__slots__" not in vars(kind)
    assert all(part.init for part in dataclasses.fields(kind))
