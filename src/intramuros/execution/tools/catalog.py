"""The six tools: their names and what they take (contract 23.1, 23.2). Pure.

Types coerce as the official toolset's do (pydantic's lax mode): ``"5"`` is an integer, ``"yes"`` a
boolean. Unknown keys are refused.
"""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BashInput(_Input):
    """A command for the persistent shell, or its restart."""

    command: str | None = None
    restart: bool | None = None
    timeout_ms: int | None = None


class ReadInput(_Input):
    """A file, or lines of it."""

    file_path: str
    view_range: list[int] | None = None


class WriteInput(_Input):
    """A file and all it is to hold."""

    file_path: str
    content: str


class EditInput(_Input):
    """A replacement in a file."""

    file_path: str
    old_string: str
    new_string: str
    replace_all: bool | None = None


class GlobInput(_Input):
    """A pattern for file names."""

    pattern: str
    path: str | None = None


class GrepInput(_Input):
    """A regular expression for file contents."""

    pattern: str
    path: str | None = None


INPUTS: Final[dict[str, type[_Input]]] = {
    "bash": BashInput,
    "read": ReadInput,
    "write": WriteInput,
    "edit": EditInput,
    "glob": GlobInput,
    "grep": GrepInput,
}


def input_schema(tool: str) -> dict[str, Any]:
    """Return the JSON Schema of a tool's input.

    Raises:
        KeyError: no such tool.
    """
    return INPUTS[tool].model_json_schema()
