"""The models that a workspace may use, an extension of ours under ``/x/workspaces``."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from intramuros.protocol.resources.base import Request, Response

# An id, an alias, or the beginning of many with a star behind it.
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\s*]*\*?$")]
MAX_PATTERNS = 200


class ModelsPut(Request):
    """``PUT /x/workspaces/{workspace_id}/models``; ``null`` permits every model."""

    models: Annotated[list[Pattern], Field(max_length=MAX_PATTERNS)] | None


class WorkspaceModels(Response):
    """The models that a workspace may use; ``null`` for every model."""

    type: Literal["workspace_models"]
    workspace_id: str
    models: list[str] | None
