"""What a session holds, as the SDK reads it: its lists, and its repositories. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mounted:
    """A repository that a session has mounted; it changes when its token is rotated."""

    resource_id: str
    updated_at: str


def mounted_of(resources: Iterable[object]) -> tuple[Mounted, ...]:
    """Return the repositories among a session's resources, as the SDK reads them."""
    return tuple(
        Mounted(str(getattr(resource, "id", "")), str(getattr(resource, "updated_at", "")))
        for resource in resources
        if getattr(resource, "type", None) == "github_repository"
    )


def items(holder: object, name: str) -> Sequence[object]:
    """Return a list that a part of a session holds; empty if it has none."""
    return getattr(holder, name, None) or ()
