"""A quick ``dataclasses.replace`` for values with many fields. Pure.

The standard one calls the constructor with every field, which for a session's state takes longer
than all else that a record costs. Here the fields are copied as they are.
"""

from typing import TypeVar

T = TypeVar("T")


def replace(value: T, /, **changes: object) -> T:
    """Return a frozen dataclass with some fields changed.

    Only for classes that have neither ``__post_init__`` nor ``slots`` nor fields that the
    constructor does not take. Import it so that type checkers see the standard one, whose names
    they check.

    Raises:
        TypeError: there is no such field.
    """
    if not changes.keys() <= value.__dataclass_fields__.keys():  # type: ignore[attr-defined]  # one
        unknown = changes.keys() - value.__dataclass_fields__.keys()  # type: ignore[attr-defined]  # one
        raise TypeError(f"{type(value).__name__} has no field {sorted(unknown)}")
    copy: T = object.__new__(type(value))
    copy.__dict__.update(value.__dict__)
    copy.__dict__.update(changes)
    return copy
