"""What a session mounts besides memory stores: files and repositories (contract section 11)."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, StringConstraints

from intramuros.protocol.resources.base import Request, Response, Timestamp

MAX_FILES: Final = 500
UPLOADS: Final = "/mnt/session/uploads"
OUTPUTS: Final = "/mnt/session/outputs"
WORKSPACE: Final = "/workspace"
MAX_PATH_BYTES: Final = 1024
MAX_SEGMENTS: Final = 20
_NAME_BYTES: Final = 255
_REPOSITORY: Final = re.compile(r"https://github\.com/[A-Za-z0-9-]{1,39}/[A-Za-z0-9._-]{1,100}\Z")

Id = Annotated[str, StringConstraints(min_length=1, max_length=128)]


def check_relative(path: str) -> str:
    """Return a relative path of plain names, as outputs have it.

    Raises:
        ValueError: saying which rule it breaks.
    """
    names = path.split("/")
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise ValueError(f"must be at most {MAX_PATH_BYTES} bytes")
    if len(names) > MAX_SEGMENTS:
        raise ValueError(f"must have at most {MAX_SEGMENTS} segments")
    for name in names:
        if name in ("", ".", "..") or len(name.encode("utf-8", "surrogatepass")) > _NAME_BYTES:
            raise ValueError("must not have empty, '.', '..' or overlong segments")
        if not name.isprintable():
            raise ValueError("must not have control characters")
    return path


def upload_place(path: str) -> str:
    """Return where a file is mounted: every path is rooted below the uploads (contract 11.4).

    Raises:
        ValueError: saying which rule it breaks.
    """
    if not path.startswith("/"):
        raise ValueError("must start with '/'")
    inner = path.removeprefix(UPLOADS).removeprefix("/")
    return f"{UPLOADS}/{check_relative(inner)}"


def check_repository(url: str) -> str:
    """Return a repository's address (contract 11.5, contract-2 R391).

    Raises:
        ValueError: it has another form.
    """
    if not _REPOSITORY.match(url) or url.endswith(".git"):
        raise ValueError("must be https://github.com/OWNER/REPOSITORY, without .git")
    return url


class FileParam(Request):
    """A file to mount (contract 11.4); ``mount_path`` is below the uploads, and so shown."""

    type: Literal["file"]
    file_id: Id
    mount_path: Annotated[str, AfterValidator(upload_place)] | None = None


class RepositoryParam(Request):
    """A repository to mount (contract 11.5 to 11.7)."""

    type: Literal["github_repository"]
    url: Annotated[str, AfterValidator(check_repository)]
    authorization_token: str | None = None
    mount_path: str | None = None
    checkout: dict[str, Any] | None = None


class ResourceUpdate(Request):
    """``POST …/resources/{id}``: a repository's new token (contract 11.8)."""

    authorization_token: str


class FileResource(Response):
    """A mounted file."""

    id: str
    type: Literal["file"] = "file"
    file_id: str
    mount_path: str
    created_at: Timestamp
    updated_at: Timestamp
