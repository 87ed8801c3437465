"""Checks an answer as the SDK parsed it against the SDK's own types.

The SDK builds answers without validating them, so a missing member shows up only where somebody
reads it. :func:`check` walks the parsed answer along its annotations and reports required members
that are missing, nulls where the type allows none, and values of the wrong type.
"""

import typing
from collections.abc import Iterator, Mapping
from datetime import datetime
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from anthropic import BaseModel


def check(answer: BaseModel, *, nullable: bool = True) -> None:
    """Fail unless the answer has the structure its class promises.

    Args:
        nullable: also demand that optional members are present (as null), which holds for
            resources (contract 4.23) but not for events.
    """
    problems = list(_model(answer, type(answer).__name__, nullable))
    assert not problems, "\n".join(problems)


def _model(value: BaseModel, path: str, nullable: bool) -> Iterator[str]:
    for name, field in type(value).model_fields.items():
        key = field.alias or name
        sent = name in value.model_fields_set or key in value.model_fields_set
        optional = not field.is_required()
        if not sent:
            if not optional or nullable:
                yield f"{path}.{key}: missing"
            continue
        yield from _value(getattr(value, name), field.annotation, f"{path}.{key}", nullable)


def _value(value: Any, hint: Any, path: str, nullable: bool) -> Iterator[str]:
    hint = _plain(hint)
    origin = get_origin(hint)
    if hint is Any or hint is object:
        return
    if origin in (Union, UnionType):
        yield from _union(value, get_args(hint), path, nullable)
    elif origin is Literal:
        if value not in get_args(hint):
            yield f"{path}: {value!r} is none of {get_args(hint)}"
    elif origin is list:
        yield from _items(value, get_args(hint)[0], path, nullable)
    elif origin in (dict, Mapping):
        yield from _members(value, get_args(hint)[1], path, nullable)
    elif isinstance(hint, type) and issubclass(hint, BaseModel):
        if not isinstance(value, hint):
            yield f"{path}: expected {hint.__name__}, got {value!r}"
        else:
            yield from _model(value, path, nullable)
    else:
        yield from _scalar(value, hint, path)


def _items(value: Any, hint: Any, path: str, nullable: bool) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{path}: expected a list, got {value!r}"
        return
    for index, child in enumerate(value):
        yield from _value(child, hint, f"{path}[{index}]", nullable)


def _members(value: Any, hint: Any, path: str, nullable: bool) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: expected an object, got {value!r}"
        return
    for key, child in value.items():
        yield from _value(child, hint, f"{path}[{key!r}]", nullable)


def _union(value: Any, choices: tuple[Any, ...], path: str, nullable: bool) -> Iterator[str]:
    found: list[list[str]] = []
    for choice in choices:
        problems = list(_value(value, choice, path, nullable))
        if not problems:
            return
        found.append(problems)
    exact = [c for c in choices if _plain(c) is type(value)]
    if exact:
        yield from found[choices.index(exact[0])]
    else:
        yield f"{path}: {value!r} fits no member of the union"


def _scalar(value: Any, hint: Any, path: str) -> Iterator[str]:
    wanted = {None: NoneType}.get(hint, hint)
    if wanted is float:
        wanted = (int, float)
    if wanted is datetime and not isinstance(value, datetime):
        yield f"{path}: {value!r} was not parsed as a time"
    elif (isinstance(value, bool) and wanted is not bool) or not isinstance(value, wanted):
        yield f"{path}: expected {wanted}, got {value!r}"


def _plain(hint: Any) -> Any:
    while get_origin(hint) is typing.Annotated:
        hint = get_args(hint)[0]
    return hint
