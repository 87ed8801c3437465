"""What is known of models: names, limits, list prices, and which settings each takes.

The list that ships is ``models.yaml`` beside this file; operators add to it with a file of the same
shape. A model that is not listed is not refused: the provider decides what it serves.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from intramuros.control.model.providers import Provider, ProviderId
from intramuros.kernel.errors import InvalidRequest, OperatorError

EFFORT_LEVELS: Final = ("low", "medium", "high", "xhigh", "max")
# What a model does when nobody chooses; for models of which nothing else is known.
DEFAULT_EFFORT: Final = "high"
# "The release date is unknown" in the contract's words.
UNKNOWN_DATE: Final = "1970-01-01T00:00:00Z"
MAX_BYTES: Final = 1024 * 1024
MAX_FALLBACKS: Final = 5

_SHIPPED: Final = Path(__file__).with_name("models.yaml")

Level = Literal["low", "medium", "high", "xhigh", "max"]
Lifecycle = Literal["active", "deprecated", "retired"]
Feature = Literal[
    "batch",
    "citations",
    "code_execution",
    "compaction",
    "context_management",
    "image_input",
    "pdf_input",
    "structured_outputs",
    "code_execution_tool",
    "web_search_tool",
]
Thinking = Literal["adaptive", "between_tools", "disabled", "enabled"]
Id = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^\S+$")]
Date = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Efforts(_Part):
    """The levels a model takes (none: it knows no effort) and the one it has by itself."""

    default: Level = "high"
    levels: tuple[Level, ...]


# Eight decimals are what costs are exact to (cost.py).
Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=15, decimal_places=8)]


class Price(_Part):
    """US dollars per million tokens."""

    input: Dollars
    output: Dollars
    cache_read: Dollars
    cache_write_5m: Dollars
    cache_write_1h: Dollars


class Prices(_Part):
    """List prices per speed."""

    standard: Price
    fast: Price | None = None


class ModelEntry(_Part):
    """One model; a member that is None is not known.

    Args:
        provider: who serves it; the server's own provider when None.
        upstream_model: its name there, if it is not its id.
        fallback: models that answer in its place, in this order, when it cannot.
        fallback_after: how often a request that may succeed later is tried again before that.
    """

    id: Id
    display_name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    aliases: tuple[Id, ...] = ()
    line: Literal["haiku", "sonnet", "opus", "fable", "mythos"] | None = None
    created_at: Date = UNKNOWN_DATE
    lifecycle: Lifecycle = "active"
    deprecated_at: Date | None = None
    retires_at: Date | None = None
    max_input_tokens: Annotated[int, Field(gt=0)] | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    effort: Efforts | None = None
    speeds: tuple[Literal["fast"], ...] | None = None
    prices: Prices | None = None
    thinking: tuple[Thinking, ...] | None = None
    features: tuple[Feature, ...] | None = None
    system_messages: bool | None = None
    provider: ProviderId | None = None
    upstream_model: Id | None = None
    fallback: Annotated[tuple[Id, ...], Field(max_length=MAX_FALLBACKS)] = ()
    fallback_after: Annotated[int, Field(ge=0, le=8)] = 2

    @model_validator(mode="after")
    def _others(self) -> Self:
        own = {self.id, *self.aliases}
        if own & set(self.fallback) or len(set(self.fallback)) < len(self.fallback):
            raise ValueError(f"fallback of {self.id!r}: expected other models, each once")
        if self.upstream_model and not self.provider:
            raise ValueError(f"upstream_model of {self.id!r} needs a provider")
        return self

    def info(self) -> dict[str, Any]:
        """Return the model as ``GET /v1/models`` shows it."""
        return {
            "type": "model",
            "id": self.id,
            "display_name": self.display_name,
            "line": self.line,
            "created_at": self.created_at,
            "lifecycle": self.lifecycle,
            "deprecated_at": self.deprecated_at,
            "retires_at": self.retires_at,
            "max_input_tokens": self.max_input_tokens,
            "max_tokens": self.max_tokens,
            "allowed_fallback_models": None,
            "capabilities": self._capabilities(),
        }

    def _capabilities(self) -> dict[str, Any] | None:
        if self.features is None or self.thinking is None or self.effort is None:
            return None
        has, levels = set(self.features), self.effort.levels
        clears = "context_management" in has
        return {
            **{
                name: _supported(name in has)
                for name in (
                    "batch",
                    "citations",
                    "code_execution",
                    "image_input",
                    "pdf_input",
                    "structured_outputs",
                )
            },
            "compaction": {
                **_supported("compaction" in has),
                "summarize": _supported("compaction" in has),
            },
            "context_management": {
                **_supported(clears),
                "clear_thinking_20251015": _supported(clears),
                "clear_tool_uses_20250919": _supported(clears),
                "compact_20260112": _supported("compaction" in has),
            },
            "effort": {
                **_supported(bool(levels)),
                **{level: _supported(level in levels) for level in EFFORT_LEVELS},
            },
            "server_tools": {
                **_supported("code_execution_tool" in has or "web_search_tool" in has),
                "code_execution": _supported("code_execution_tool" in has),
                "web_search": _supported("web_search_tool" in has),
            },
            "thinking": {
                **_supported(bool({"adaptive", "enabled"} & set(self.thinking))),
                "types": {
                    name: _supported(name in self.thinking)
                    for name in ("adaptive", "between_tools", "disabled", "enabled")
                },
            },
        }


class _File(_Part):
    models: tuple[ModelEntry, ...]
    providers: tuple[Provider, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [name for entry in self.models for name in (entry.id, *entry.aliases)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} appears twice")
        providers = [provider.id for provider in self.providers]
        if len(set(providers)) < len(providers):
            raise ValueError("a provider appears twice")
        for entry in self.models:
            if entry.provider and entry.provider not in providers:
                raise ValueError(f"{entry.id!r} names the provider {entry.provider!r}, not listed")
        return self


class Catalogue:
    """The models that are known, newest first, by id and alias; and who serves them."""

    def __init__(self, entries: Sequence[ModelEntry], providers: Sequence[Provider] = ()) -> None:
        self.entries = tuple(entries)
        self.providers = tuple(providers)
        self._by_name: dict[str, ModelEntry] = {}
        for entry in self.entries:
            for name in entry.aliases:
                self._by_name.setdefault(name, entry)
        self._by_name.update({entry.id: entry for entry in self.entries})

    def find(self, model: str) -> ModelEntry | None:
        """Return what is known of a model, by its id or an alias."""
        return self._by_name.get(model)

    def check_system_messages(self, model: str) -> None:
        """Refuse operator text in the middle of a conversation for a model that takes none.

        Raises:
            InvalidRequest: with the code of contract 13.17.
        """
        found = self.find(model)
        if found is not None and found.system_messages is False:
            raise InvalidRequest(
                f"system.message: {model} takes no system messages in the middle of a "
                "conversation (model_does_not_support_mid_conversation_system)",
                code="model_does_not_support_mid_conversation_system",
            )

    def default_effort(self, model: str) -> str:
        """Return the level that a model has when nobody chooses one (contract 5.4)."""
        found = self.find(model)
        return found.effort.default if found and found.effort else DEFAULT_EFFORT

    def takes_effort(self, model: str) -> bool:
        """Tell whether a request may name an effort; unknown models are asked."""
        found = self.find(model)
        return not (found and found.effort and not found.effort.levels)

    def price(self, model: str, speed: str = "standard") -> Price | None:
        """Return the list price, or None where none is known."""
        found = self.find(model)
        if found is None or found.prices is None:
            return None
        return found.prices.fast if speed == "fast" else found.prices.standard

    def check(self, model: str, effort: str | None, speed: str | None) -> None:
        """Refuse settings that a known model lacks (contract 5.5).

        The default level is never refused: it is the same as naming none.

        Raises:
            InvalidRequest: naming the field and what the model takes.
        """
        found = self.find(model)
        if found is None:
            return
        efforts = found.effort
        if effort and efforts and effort not in (*efforts.levels, efforts.default):
            takes = ", ".join(efforts.levels) or "no effort"
            raise InvalidRequest(f"model.effort: {model} takes {takes}, not {effort!r}")
        if speed == "fast" and found.speeds is not None and "fast" not in found.speeds:
            raise InvalidRequest(f"model.speed: {model} has no speed 'fast'")


def load_catalogue(extra: Path | None = None, scripts: Path | None = None) -> Catalogue:
    """Return the shipped models with the operator's own, which win.

    Args:
        extra: a file shaped like the shipped one.
        scripts: the directory of scripts; each is listed as ``scripted/NAME``, last.

    Raises:
        OperatorError: a file cannot be read or is not shaped like that.
    """
    own = _read(extra, _patterns()) if extra is not None else _File(models=())
    replaced = {name for entry in own.models for name in (entry.id, *entry.aliases)}
    others = [*_read(_SHIPPED).models, *_scripted(scripts)]
    kept = [entry for entry in others if entry.id not in replaced]
    return Catalogue([*own.models, *kept], own.providers)


@cache
def shipped_catalogue() -> Catalogue:
    """Return the shipped models alone."""
    return load_catalogue()


def _patterns() -> Mapping[str, Mapping[str, Any]]:
    """Return what entries of an operator may be like, by id."""
    left_out = {"id", "aliases", "created_at"}
    return {
        entry.id: entry.model_dump(mode="python", exclude=left_out, exclude_unset=True)
        for entry in _read(_SHIPPED).models
    }


def _completed(data: object, patterns: Mapping[str, Mapping[str, Any]]) -> object:
    """Return the file's content with ``like`` replaced by what it stands for."""
    if not isinstance(data, dict) or not isinstance(data.get("models"), list):
        return data
    return {**data, "models": [_like(entry, patterns) for entry in data["models"]]}


def _like(entry: object, patterns: Mapping[str, Mapping[str, Any]]) -> object:
    if not isinstance(entry, dict) or not isinstance(entry.get("like"), str):
        return entry
    if entry["like"] not in patterns:
        return entry  # the member is refused, by its name
    own = {name: value for name, value in entry.items() if name != "like"}
    return {**patterns[entry["like"]], **own}


def _read(file: Path, patterns: Mapping[str, Mapping[str, Any]] | None = None) -> _File:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise OperatorError(f"{file} is larger than {MAX_BYTES} bytes", "shorten it")
        data: object = yaml.safe_load(file.read_text(encoding="utf-8"))
        return _File.model_validate(_completed(data, patterns or {}))
    except OSError as error:
        raise OperatorError(
            f"cannot read {file} ({error.strerror})", "check --models-file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OperatorError(f"{file} is no YAML", str(error).splitlines()[0]) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise OperatorError(
            f"{file} is no list of models", f"correct {where} ({first['msg']})"
        ) from error


def _scripted(directory: Path | None) -> list[ModelEntry]:
    names = sorted(path.stem for path in directory.glob("*.yaml")) if directory else []
    return [
        ModelEntry(id=f"scripted/{name}", display_name=f"Script {name} (no real model)")
        for name in names
        if name and not any(c.isspace() for c in name)
    ]


def _supported(value: bool) -> Mapping[str, bool]:
    return {"supported": value}
