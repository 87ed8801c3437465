"""Settings: read once, from a file, the environment and flags, into one frozen dataclass.

Precedence is file < environment < flag. Each plane declares its own dataclass; this module only
fills it and remembers where each value came from, so that ``doctor`` can show it. It is the only
file that reads the environment.

Environment names are ``INTRAMUROS_<FIELD>`` in capitals, or the names given in a field's
``metadata={"env": ("A", "B")}``, first match first. Files are YAML mappings whose keys are field
names with ``-`` or ``_``.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from intramuros.kernel.errors import OperatorError

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Loaded(Generic[S]):
    """Settings and the origin of each value: ``default``, ``file``, ``env NAME`` or ``flag``."""

    settings: S
    origins: Mapping[str, str]


def environment() -> Mapping[str, str]:
    """Return the process environment."""
    return os.environ  # noqa: TID251  the one place that may


def clean_environment(
    keep: Sequence[str] = ("PATH", "HOME", "LANG", "TERM", "TMPDIR"),
) -> dict[str, str]:
    """Return a copy of the environment with only the named variables, for child processes."""
    return {name: value for name, value in environment().items() if name in keep}


def load(
    cls: type[T],
    *,
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> "Loaded[T]":
    """Fill a frozen settings dataclass.

    Args:
        cls: the dataclass; supported field types are str, int, float, bool, Path, ``X | None`` and
            tuples of those (in the environment: separated by commas).
        file: a YAML file, or None.
        env: the environment; the process's own when None.
        flags: values from the command line; None values count as absent.

    Raises:
        OperatorError: an unreadable file, an unknown key, a value of the wrong type, or a
            required value that is missing; it names the key and where to set it.
    """
    env = environment() if env is None else env
    from_file = _read(file) if file else {}
    hints = get_type_hints(cls)
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # T is a dataclass by contract
    for key in from_file:
        if key not in known:
            raise OperatorError(
                f"{file}: unknown setting {key!r}", f"use one of {', '.join(sorted(known))}"
            )
    for name, field in known.items():
        raw, origin = _pick(field, from_file, env, flags or {})
        if origin == "default":
            if field.default is MISSING and field.default_factory is MISSING:
                raise OperatorError(
                    f"setting {name!r} is missing",
                    f"pass --{name.replace('_', '-')} or set {_env_names(field)[0]}",
                )
            origins[name] = origin
            continue
        try:
            values[name] = _convert(raw, hints[name])
        except (TypeError, ValueError) as error:
            raise OperatorError(f"setting {name!r} ({origin}) is wrong", str(error)) from error
        origins[name] = origin
    return Loaded(cls(**values), origins)


def _read(file: Path) -> dict[str, object]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OperatorError(
            f"cannot read {file} ({error.strerror})", "check the path and its mode"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OperatorError(f"{file} is no YAML", str(error).splitlines()[0]) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise OperatorError(f"{file} must hold a mapping", "write `name: value` lines")
    return {str(key).replace("-", "_"): value for key, value in data.items()}


def _env_names(field: "Field[Any]") -> tuple[str, ...]:
    names = field.metadata.get("env")
    return tuple(names) if names else (f"INTRAMUROS_{field.name.upper()}",)


def _pick(
    field: "Field[Any]",
    from_file: Mapping[str, object],
    env: Mapping[str, str],
    flags: Mapping[str, object],
) -> tuple[object, str]:
    flag = flags.get(field.name)
    if flag is not None:
        return flag, "flag"
    for name in _env_names(field):
        if env.get(name):
            return env[name], f"env {name}"
    if field.name in from_file:
        return from_file[field.name], "file"
    return None, "default"


def _convert(raw: object, hint: Any) -> object:  # noqa: ANN401  a type hint has no type
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        if raw is None:
            return None
        return _convert(raw, next(a for a in get_args(hint) if a is not type(None)))
    if origin is tuple:
        items = raw.split(",") if isinstance(raw, str) else raw
        if not isinstance(items, (list, tuple)):
            raise TypeError("expected a list")
        item = get_args(hint)[0]
        return tuple(_convert(i.strip() if isinstance(i, str) else i, item) for i in items)
    return _scalar(raw, hint)


def _scalar(raw: object, hint: Any) -> object:  # noqa: ANN401  a type hint has no type
    if hint is bool and not isinstance(raw, bool):
        text = str(raw).lower()
        if text in {"1", "true", "yes", "on"}:
            return True
        if text in {"0", "false", "no", "off"}:
            return False
        raise ValueError(f"expected true or false, got {raw!r}")
    if hint is Path:
        # Processes of ours change their directory; the path means what it meant at the start.
        return Path(str(raw)).expanduser().absolute()
    if hint in (int, float) and (isinstance(raw, bool) or not isinstance(raw, (str, int, float))):
        raise TypeError(f"expected a number, got {raw!r}")
    if hint is str and not isinstance(raw, (str, int, float)):
        raise TypeError(f"expected text, got {raw!r}")
    converted: object = hint(raw)
    return converted
