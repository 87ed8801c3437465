"""Rate-limit groups: which models and which parts of the API share a set of limits.

There is a group for each family of known models, one for models of no family, and one each for
counting tokens, files and skills. What the organization may use of them says the operator's own
file; without one there are groups but no limits, and a workspace may still be given some.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from intramuros.control.model.catalogue import Catalogue, ModelEntry
from intramuros.kernel.errors import OperatorError

MAX_BYTES: Final = 1024 * 1024
MAX_VALUE: Final = 10**12
OTHERS: Final = "Other models"

GroupType = Literal["batch", "files", "model_group", "skills", "token_count", "web_search"]
Limiter = Literal[
    "fast_itpmca",
    "fast_otpm",
    "input_tokens_per_minute",
    "input_tokens_per_minute_cache_aware",
    "output_tokens_per_minute",
    "requests_per_minute",
    "tokens_per_day",
    "tokens_per_minute",
    "tool_uses_per_second",
]
# What can be limited where; the rest could be stored but not kept.
ENFORCED: Final[Mapping[str, frozenset[str]]] = {
    "model_group": frozenset(
        {
            "fast_itpmca",
            "fast_otpm",
            "input_tokens_per_minute",
            "input_tokens_per_minute_cache_aware",
            "output_tokens_per_minute",
            "requests_per_minute",
            "tokens_per_day",
            "tokens_per_minute",
        }
    ),
    **{kind: frozenset({"requests_per_minute"}) for kind in ("files", "skills", "token_count")},
}
_VERSION: Final = re.compile(r"-(\d+)(?:-|$)")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Limits(_Part):
    """One group in the operator's file."""

    display_name: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    type: Literal["files", "model_group", "skills", "token_count"] = "model_group"
    models: tuple[str, ...] | None = None
    limits: dict[Limiter, Annotated[int, Field(ge=0, le=MAX_VALUE)]]


class _File(_Part):
    groups: tuple[_Limits, ...]


@dataclass(frozen=True)
class Group:
    """One group and the organization's limits in it.

    Args:
        id: the same in every organization.
        entry_id: this organization's own.
        names: ids and aliases of the models that belong to it; none for other types.
    """

    id: str
    entry_id: str
    type: str
    display_name: str
    names: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """Return the group as rate-limit entries name it."""
        named = {"display_name": self.display_name} if self.type == "model_group" else {}
        return {"id": self.id, "type": self.type, **named}

    def models(self) -> list[str] | None:
        """Return the models as entries list them."""
        return list(self.names) if self.type == "model_group" else None


class Groups:
    """All groups, by entry id and by what they are for."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.all = tuple(groups)
        self._entries = {group.entry_id: group for group in groups}
        self._by_id = {group.id: group for group in groups}
        self._by_model = {name: group for group in groups for name in group.names}
        self._by_type = {group.type: group for group in groups if group.type != "model_group"}
        self._others = next(group for group in groups if group.display_name == OTHERS)

    def entry(self, entry_id: str) -> Group | None:
        """Return the group of a rate-limit entry, or None."""
        return self._entries.get(entry_id)

    def by_id(self, group_id: str) -> Group | None:
        """Return a group by its own id, or None if it is no more."""
        return self._by_id.get(group_id)

    def find(self, model: str) -> Group | None:
        """Return the group that lists a model, or None."""
        return self._by_model.get(model)

    def of_model(self, model: str) -> Group:
        """Return the group that a model counts against, known or not."""
        return self._by_model.get(model, self._others)

    def of_type(self, type: str) -> Group:
        """Return the group of a part of the API."""
        return self._by_type[type]


def load_groups(known: Catalogue, organization_id: str, file: Path | None = None) -> Groups:
    """Return the groups of an installation.

    Args:
        known: the models.
        file: the operator's limits, as docs/how-to/limits.md describes it.

    Raises:
        OperatorError: the file cannot be read, or names what is not there.
    """
    families = _families(known.entries)
    limits: dict[str, Mapping[str, int]] = {}
    types: dict[str, Mapping[str, int]] = {}
    for entry in _read(file) if file is not None else ():
        _check(entry, file)
        if entry.type != "model_group":
            types[entry.type] = dict[str, int](**entry.limits)
            continue
        name = entry.display_name or ", ".join(entry.models or ())
        if entry.models is not None:
            _move(families, name, entry.models, known)
        elif name not in families:
            raise OperatorError(
                f"{file} limits the unknown group {name!r}",
                f"take one of {', '.join(sorted(families))}, or list its models",
            )
        limits[name] = dict[str, int](**entry.limits)
    return Groups(
        [
            *(
                _group(organization_id, "model_group", name, models, limits.get(name, {}))
                for name, models in families.items()
            ),
            *(
                _group(organization_id, kind, kind, [], types.get(kind, {}))
                for kind in ("token_count", "files", "skills")
            ),
        ]
    )


def _families(entries: Sequence[ModelEntry]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in entries:
        version = _VERSION.search(entry.id)
        family = OTHERS
        if entry.line is not None and version is not None:
            family = f"Claude {entry.line.capitalize()} {version[1]}.x"
        found.setdefault(family, []).extend((entry.id, *entry.aliases))
    others = found.pop(OTHERS, [])
    return {**found, OTHERS: others}


def _move(
    families: dict[str, list[str]], name: str, models: Sequence[str], known: Catalogue
) -> None:
    entries = [known.find(model) for model in models]
    names = {n for entry in entries if entry for n in (entry.id, *entry.aliases)} | set(models)
    for listed in families.values():
        listed[:] = [other for other in listed if other not in names]
    families.setdefault(name, []).extend(sorted(names))


def _group(
    organization_id: str, type: str, name: str, models: Sequence[str], limits: Mapping[str, int]
) -> Group:
    group_id = f"rlg_{_digest(type, name)}"
    entry_id = f"rl_{_digest(organization_id, group_id)}"
    group = Group(group_id, entry_id, type, name)
    return replace(group, names=tuple(models), limits=dict(limits))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _check(entry: _Limits, file: Path | None) -> None:
    kept = ENFORCED[entry.type]
    wrong = sorted(set(entry.limits) - kept)
    if wrong:
        raise OperatorError(
            f"{file} limits {wrong[0]} of {entry.type}", f"limit {', '.join(sorted(kept))}"
        )
    if entry.type == "model_group" and not (entry.models or entry.display_name):
        raise OperatorError(f"{file} has a group without a name", "add display_name or models")


def _read(file: Path) -> tuple[_Limits, ...]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise OperatorError(f"{file} is larger than {MAX_BYTES} bytes", "shorten it")
        data: object = yaml.safe_load(file.read_text(encoding="utf-8"))
        return _File.model_validate(data).groups
    except OSError as error:
        raise OperatorError(
            f"cannot read {file} ({error.strerror})", "check --limits-file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OperatorError(f"{file} is no YAML", str(error).splitlines()[0]) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise OperatorError(
            f"{file} is no list of limits", f"correct {where} ({first['msg']})"
        ) from error
