"""The built-in sandbox tools as a model reads them (contract 6.1, 23.3 to 23.21). Pure.

The inputs are those that the worker takes, in the official worker's own terms; descriptions are
ours and say only what every worker does.
"""

from collections.abc import Mapping
from typing import Final

_PATH: Final = {"type": "string", "description": "Relative to the working directory, or absolute."}


def _inputs(required: list[str], **properties: Mapping[str, object]) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {name: dict(value) for name, value in properties.items()},
        "required": required,
        "additionalProperties": False,
    }


# name → (description, input schema)
DEFINITIONS: Final[Mapping[str, tuple[str, Mapping[str, object]]]] = {
    "bash": (
        "Run a command in a bash shell that persists between calls: the working directory and "
        "variables survive. Returns standard output and standard error together; a non-zero exit "
        "is reported as an error. Commands get no input. After a time-out, or if a command ends "
        "the shell, call again with restart set.",
        _inputs(
            [],
            command={"type": "string", "description": "The command; required unless restarting."},
            restart={"type": "boolean", "description": "Start a fresh shell instead."},
            timeout_ms={
                "type": "integer",
                "description": "Longest time in milliseconds; 0 or absent means 120000.",
            },
        ),
    ),
    "read": (
        "Read a file: text as it is, images and PDF documents as such. Text files above 256 KiB "
        "need a view_range.",
        _inputs(
            ["file_path"],
            file_path=_PATH,
            view_range={
                "type": "array",
                "items": {"type": "integer"},
                "minItems": 2,
                "maxItems": 2,
                "description": "First and last line, counted from 1; a last line of 0 or less "
                "means the end of the file.",
            },
        ),
    ),
    "write": (
        "Write a whole file, replacing what was there; missing directories are made.",
        _inputs(
            ["file_path", "content"],
            file_path=_PATH,
            content={"type": "string", "description": "The full new content."},
        ),
    ),
    "edit": (
        "Replace text in a file. The old text must occur exactly once unless replace_all is set.",
        _inputs(
            ["file_path", "old_string", "new_string"],
            file_path=_PATH,
            old_string={"type": "string", "description": "The exact text to find."},
            new_string={"type": "string", "description": "The text to put in its place."},
            replace_all={"type": "boolean", "description": "Replace every occurrence."},
        ),
    ),
    "glob": (
        "List the files that match a glob pattern such as src/**/*.py, newest first, at most 200.",
        _inputs(
            ["pattern"],
            pattern={"type": "string", "description": "A relative pattern without '..'."},
            path={**_PATH, "description": "Where to look; the working directory when absent."},
        ),
    ),
    "grep": (
        "Search file contents for a regular expression. Hits come as path:line:text.",
        _inputs(
            ["pattern"],
            pattern={"type": "string", "description": "A regular expression."},
            path={
                **_PATH,
                "description": "Where to look; the working directory when absent.",
            },
        ),
    ),
}
