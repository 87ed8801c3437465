"""What a dream may write: statements, each with where it comes from. Pure.

A memory that a dream writes is Markdown: a list of statements with footnotes, one footnote for each
source. The model names sources by the ids and paths it was shown; only those that exist get
through, and the footnotes are written here, so that a statement cannot carry a source of its own
making.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from intramuros.protocol.resources.memory import check_path, check_prefix

MAX_STATEMENTS: Final = 500
MAX_SOURCES: Final = 20
# Of one memory; each is looked up.
MAX_CITED: Final = 200
MAX_STATEMENT_CHARS: Final = 8_000
# Opens a footnote in Markdown; a statement must not make its own.
_MARK: Final = "[^"


class BadInput(ValueError):
    """The model's input cannot be used; the message tells it why."""


def _no_footnotes(text: str) -> str:
    if _MARK in text:
        raise ValueError(f"must not contain {_MARK!r}: footnotes are made from the sources")
    return text


def _one_line(text: str) -> str:
    if len(text.splitlines()) > 1:
        raise ValueError("must be one line")
    return _no_footnotes(text)


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Statement(_Input):
    """One statement and the events and memories it rests on."""

    text: Annotated[
        str,
        StringConstraints(min_length=1, max_length=MAX_STATEMENT_CHARS, strip_whitespace=True),
        AfterValidator(_no_footnotes),
    ]
    sources: Annotated[list[str], Field(min_length=1, max_length=MAX_SOURCES)]


_Path = Annotated[str, AfterValidator(check_path)]


class ListMemories(_Input):
    """``list_memories``."""

    prefix: Annotated[str, AfterValidator(check_prefix)] = "/"
    after: _Path | None = None


class ReadMemory(_Input):
    """``read_memory``."""

    path: _Path


class WriteMemory(_Input):
    """``write_memory``."""

    path: _Path
    title: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=200, strip_whitespace=True),
            AfterValidator(_one_line),
        ]
        | None
    ) = None
    statements: Annotated[list[Statement], Field(min_length=1, max_length=MAX_STATEMENTS)]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if len(self.sources) > MAX_CITED:
            raise ValueError(f"a memory names at most {MAX_CITED} sources: split it")
        return self

    @property
    def sources(self) -> list[str]:
        """Every source once, in the order of their first use."""
        return list(dict.fromkeys(s for one in self.statements for s in one.sources))


class DeleteMemory(_Input):
    """``delete_memory``."""

    path: _Path
    reason: Annotated[str, StringConstraints(min_length=1, max_length=1000)]


ToolInput = ListMemories | ReadMemory | WriteMemory | DeleteMemory

_TOOLS: Final[Mapping[str, type[ToolInput]]] = {
    "list_memories": ListMemories,
    "read_memory": ReadMemory,
    "write_memory": WriteMemory,
    "delete_memory": DeleteMemory,
}


@dataclass(frozen=True)
class Event:
    """An event of an input session."""

    session_id: str
    event_id: str
    date: str


@dataclass(frozen=True)
class Version:
    """A memory of the input store, as the dream found it."""

    store_id: str
    path: str
    version_id: str


Source = Event | Version


def parse(name: str, given: object) -> ToolInput:
    """Return the input of a tool call.

    Raises:
        BadInput: naming what is wrong.
    """
    model = _TOOLS.get(name)
    if model is None:
        raise BadInput(f"there is no tool {name!r}")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        raise BadInput("; ".join(_problem(problem) for problem in problems[:5])) from None


def render(wanted: WriteMemory, sources: Mapping[str, Source]) -> str:
    """Return the memory's text.

    Args:
        sources: what each source that the input names is.
    """
    numbers = {named: number for number, named in enumerate(wanted.sources, 1)}
    lines = [f"# {wanted.title}", ""] if wanted.title else []
    lines += [_bullet(one, numbers) for one in wanted.statements]
    lines.append("")
    lines += [f"[^{number}]: {_cite(sources[named])}" for named, number in numbers.items()]
    return "\n".join(lines) + "\n"


def _bullet(one: Statement, numbers: Mapping[str, int]) -> str:
    marks = "".join(f"[^{n}]" for n in sorted({numbers[named] for named in one.sources}))
    # Further lines of a statement stay inside its bullet.
    text = "\n  ".join(one.text.splitlines())
    return f"- {text} {marks}"


def _cite(source: Source) -> str:
    if isinstance(source, Event):
        return f"session {source.session_id}, event {source.event_id}, {source.date}"
    return f"memory {source.path} of {source.store_id}, version {source.version_id}"


def _problem(problem: Mapping[str, Any]) -> str:
    place: Sequence[object] = problem["loc"]
    where = ".".join(str(part) for part in place)
    what = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
