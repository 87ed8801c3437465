"""Dreams as clients ask for them (contract-2 section 12)."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints

from intramuros.protocol.resources.base import Request

MAX_SESSIONS: Final = 100
MAX_INSTRUCTIONS_CHARS: Final = 4096

Status = Literal["pending", "running", "completed", "failed", "canceled"]
# Why a dream failed (R247).
ErrorType = Literal[
    "timeout",
    "internal_error",
    "memory_store_org_limit_exceeded",
    "input_memory_store_too_large",
    "input_memory_store_unavailable",
    "input_session_unavailable",
]
# What the session of a dream has for a kind of environment: no sandbox, and no worker.
ENVIRONMENT_KIND: Final = "dream"
# A dream with one of these never changes its status again (R242).
FINAL: Final[frozenset[Status]] = frozenset({"completed", "failed", "canceled"})

_Id = Annotated[str, StringConstraints(min_length=1, max_length=128)]
_ModelId = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def check_distinct(ids: list[str]) -> list[str]:
    """Return session ids, none of them twice.

    Raises:
        ValueError: naming one that is.
    """
    for id in ids:
        if ids.count(id) > 1:
            raise ValueError(f"{id!r} is there twice")
    return ids


class StoreInput(Request):
    """The memory store that a dream reads."""

    type: Literal["memory_store"]
    memory_store_id: _Id


class SessionsInput(Request):
    """The sessions whose transcripts a dream reads."""

    type: Literal["sessions"]
    session_ids: Annotated[
        list[_Id], Field(min_length=1, max_length=MAX_SESSIONS), AfterValidator(check_distinct)
    ]


Input = Annotated[StoreInput | SessionsInput, Field(discriminator="type")]


def check_inputs(inputs: list[Input]) -> list[Input]:
    """Return the two inputs: one store, one list of sessions (R236).

    Raises:
        ValueError: there is another number of either.
    """
    if sorted(sent.type for sent in inputs) != ["memory_store", "sessions"]:
        raise ValueError("give exactly one entry of type memory_store and one of type sessions")
    return inputs


class DreamModel(Request):
    """The object form of ``model``; dreams know one speed (D07)."""

    id: _ModelId
    speed: Literal["standard"] | None = None


class CreateNew(Request):
    """Write into a new store that starts as a copy of the input store."""

    type: Literal["create_new"]


class UpdateExisting(Request):
    """Write into the input store itself (D08)."""

    type: Literal["update_existing"]
    memory_store_id: _Id


class DreamCreate(Request):
    """``POST /v1/dreams``."""

    # Two are needed; a longer list is told so by the check, and not before it is this long.
    inputs: Annotated[list[Input], Field(max_length=16), AfterValidator(check_inputs)]
    model: _ModelId | DreamModel
    instructions: (
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_INSTRUCTIONS_CHARS)] | None
    ) = None
    output_behavior: Annotated[CreateNew | UpdateExisting, Field(discriminator="type")] | None = (
        None
    )

    @property
    def store_id(self) -> str:
        """The memory store to read."""
        return next(i.memory_store_id for i in self.inputs if isinstance(i, StoreInput))

    @property
    def session_ids(self) -> list[str]:
        """The sessions to read, in sorted order, as answers list them."""
        return sorted(next(i.session_ids for i in self.inputs if isinstance(i, SessionsInput)))

    @property
    def model_id(self) -> str:
        """The model, in whichever form it was sent."""
        return self.model if isinstance(self.model, str) else self.model.id
