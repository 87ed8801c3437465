"""Files that sessions mount, and the fixed directories (contract section 11)."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, StringConstraints

from intramuros.protocol.resources.base import Request, Response, Timestamp

MAX_FILES: Final = 500
UPLOADS: Final = "/mnt/session/uploads"
OUTPUTS: Final = "/mnt/session/outputs"
WORKSPACE: Final = "/workspace"
MAX_PATH_BYTES: Final = 1024
MAX_SEGMENTS: Final = 20
_NAME_BYTES: Final = 255

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


class FileParam(Request):
    """A file to mount (contract 11.4); ``mount_path`` is below the uploads, and so shown."""

    type: Literal["file"]
    file_id: Id
    mount_path: Annotated[str, AfterValidator(upload_place)] | None = None


class FileResource(Response):
    """A mounted file."""

    id: str
    type: Literal["file"] = "file"
    file_id: str
    mount_path: str
    created_at: Timestamp
    updated_at: Timestamp
