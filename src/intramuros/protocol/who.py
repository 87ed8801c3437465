"""Who stands behind a call, as the control plane tells a gateway inside a call ticket. Pure.

A session is answered for by everybody who has steered it: who made it, and who sent it events. The
claim ``who`` lists them all, because a policy must hold for each (otherwise one person could have
another's session do what they may not). Each entry is an object:

==========  =======================================================================
``kind``    one of :class:`Kind`
``id``      the user's, service account's, API key's or deployment's
``email``   of a user, as the organization wrote it
``groups``  of a user: pairs of a group's id and its name, as they were when signed
==========  =======================================================================

A reader that does not know a kind must treat the call as one that nobody answers for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_PEOPLE: Final = 16
MAX_GROUPS: Final = 64
_MAX_ID_CHARS: Final = 128
_MAX_TEXT_CHARS: Final = 512


class Kind(StrEnum):
    """As what somebody acts."""

    USER = "user"
    SERVICE_ACCOUNT = "service_account"
    API_KEY = "api_key"
    DEPLOYMENT = "deployment"
    UNKNOWN = "unknown"
    """Somebody who has left, or more people or groups than a ticket holds; no policy allows it."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group of the organization. The id never changes; the name may."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Who:
    """One who stands behind a call."""

    kind: Kind
    id: str
    email: str = ""
    groups: tuple[Group, ...] = ()

    def claim(self) -> dict[str, object]:
        """Return the entry for a ticket; also what audit records hold."""
        entry: dict[str, object] = {"kind": self.kind.value, "id": self.id}
        if self.email:
            entry["email"] = self.email
        if self.groups:
            entry["groups"] = [[group.id, group.name] for group in self.groups]
        return entry


NOBODY_KNOWN: Final = Who(Kind.UNKNOWN, "")


class BadWho(ValueError):
    """The claim is malformed."""


def read_people(claim: object) -> tuple[Who, ...]:
    """Return who a ticket's claim ``who`` names; an absent claim names nobody.

    Raises:
        BadWho: it is malformed or too long.
    """
    if claim is None:
        return ()
    if not isinstance(claim, list) or len(claim) > MAX_PEOPLE:
        raise BadWho(f"claim 'who' is no list of at most {MAX_PEOPLE}")
    return tuple(_read(entry) for entry in claim)


def _read(entry: object) -> Who:
    if not isinstance(entry, Mapping):
        raise BadWho("claim 'who' holds something that is no object")
    try:
        kind = Kind(str(entry.get("kind")))
    except ValueError:
        return NOBODY_KNOWN
    who = Who(
        kind,
        _text(entry.get("id", ""), _MAX_ID_CHARS),
        _text(entry.get("email", ""), _MAX_TEXT_CHARS),
        _groups(entry.get("groups", [])),
    )
    if not who.id and kind is not Kind.UNKNOWN:
        raise BadWho("claim 'who' names somebody without an id")
    return who


def _groups(value: object) -> tuple[Group, ...]:
    if not isinstance(value, Sequence) or len(value) > MAX_GROUPS:
        raise BadWho(f"claim 'who' has groups that are no list of at most {MAX_GROUPS}")
    groups = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadWho("claim 'who' has a group that is no pair of id and name")
        groups.append(Group(_text(pair[0], _MAX_ID_CHARS), _text(pair[1], _MAX_TEXT_CHARS)))
    return tuple(groups)


def _text(value: object, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise BadWho(f"claim 'who' has a text that is none, or is longer than {most}")
    return value
