"""Skills and their versions (contract-2 section 9)."""

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

import yaml

from intramuros.protocol.resources.base import Response, Timestamp

MANIFEST: Final = "SKILL.md"
LATEST: Final = "latest"
MAX_FILES: Final = 2000
MAX_PATH_BYTES: Final = 1024
MAX_COMPONENT_BYTES: Final = 255
MAX_DISPLAY_NAME_CHARS: Final = 255
MAX_DESCRIPTION_CHARS: Final = 1024
MAX_SKILLS: Final = 500
# The uncompressed total of one version is below this.
MAX_SKILL_BYTES: Final = 30 * 1024 * 1024
# The front matter lies within the first bytes of SKILL.md.
MAX_FRONT_MATTER_BYTES: Final = 32 * 1024

_SLUG: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}\Z")
_RESERVED: Final = ("anthropic", "claude")
_TAG: Final = re.compile(r"</?[A-Za-z][^<>]*>")
_FRONT_MATTER: Final = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\\]")


class SkillSource(Response):
    """Where a skill comes from."""

    type: Literal["custom"] = "custom"


class Skill(Response):
    """A skill."""

    id: str
    type: Literal["skill"] = "skill"
    display_name: str
    latest_version_id: str
    source: SkillSource = SkillSource()
    created_at: Timestamp
    updated_at: Timestamp


class SkillVersion(Response):
    """One version of a skill."""

    id: str
    type: Literal["skill_version"] = "skill_version"
    skill_id: str
    name: str
    description: str
    created_at: Timestamp


@dataclass(frozen=True)
class Manifest:
    """What SKILL.md says of its skill: the slug and what it is good for."""

    name: str
    description: str


def read_manifest(head: bytes, folder: str) -> Manifest:
    """Return what the front matter of SKILL.md says (contract-2 R192, R193).

    Args:
        head: the file's first :data:`MAX_FRONT_MATTER_BYTES`.
        folder: the skill's top directory, which names it when the front matter does not.

    Raises:
        ValueError: naming what is wrong.
    """
    try:
        # A longer file may be cut in the middle of a character.
        cut = len(head) >= MAX_FRONT_MATTER_BYTES
        text = head.decode("utf-8-sig", "ignore" if cut else "strict")
    except UnicodeDecodeError as error:
        raise ValueError(f"{MANIFEST} is not UTF-8") from error
    found = _FRONT_MATTER.match(text)
    if found is None:
        raise ValueError(f"{MANIFEST} must begin with front matter between two lines of ---")
    try:
        fields: Any = yaml.safe_load(found[1])
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"the front matter of {MANIFEST} is no YAML") from error
    if not isinstance(fields, dict):
        raise ValueError(f"the front matter of {MANIFEST} must hold name and description")
    return Manifest(slug(fields.get("name") or folder), describe(fields.get("description")))


def slug(name: object) -> str:
    """Return a skill's name if it can be one (contract-2 R192).

    Raises:
        ValueError: saying what a name must be.
    """
    if not isinstance(name, str) or not _SLUG.match(name):
        raise ValueError("name: 1 to 64 lower-case letters, digits or hyphens, no hyphen first")
    for word in _RESERVED:
        if word in name:
            raise ValueError(f"name: must not contain the word {word!r}")
    return name


def display_name(sent: str) -> str:
    """Return a display name if it can be one (contract-2 R194).

    Raises:
        ValueError: saying what it must be.
    """
    if not 1 <= len(sent) <= MAX_DISPLAY_NAME_CHARS or not sent.isprintable():
        raise ValueError(f"display_name: one line of 1 to {MAX_DISPLAY_NAME_CHARS} characters")
    return sent


def safe_path(path: str) -> tuple[str, ...]:
    """Return the components of a file's path within a skill.

    Raises:
        ValueError: it is absolute, climbs, or holds what a file name should not.
    """
    shown = path[:100]
    parts = tuple(path.split("/"))
    if any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"{shown!r}: expected a plain relative path")
    if _CONTROL.search(path):
        raise ValueError(f"{shown!r}: no backslashes or control characters in paths")
    try:
        sizes = [len(part.encode("utf-8")) for part in parts]
    except UnicodeEncodeError:
        raise ValueError("a path is not valid Unicode") from None
    if max(sizes) > MAX_COMPONENT_BYTES or sum(sizes) + len(sizes) > MAX_PATH_BYTES:
        raise ValueError(f"{shown!r}: the path is too long")
    return parts


def describe(value: object) -> str:
    """Return what a skill says of itself if it can be said (contract-2 R193).

    Raises:
        ValueError: saying what it must be.
    """
    if not isinstance(value, str) or not 1 <= len(value.strip()) <= MAX_DESCRIPTION_CHARS:
        raise ValueError(f"description: 1 to {MAX_DESCRIPTION_CHARS} characters")
    if _TAG.search(value):
        raise ValueError("description: must not contain XML tags")
    return value.strip()
