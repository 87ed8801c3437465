"""What to do about one path of a memory store that three sides know differently. Pure.

*Base* is what both sides had when they last agreed, *local* what lies in the sandbox, *remote* what
the control plane lists; each is a digest, or None where there is nothing. The remote side wins a
conflict, but a file that exists nowhere else is never thrown away (contract 25.18 to 25.23).
"""

from enum import StrEnum
from typing import Final

# Bounds of the deletions that one pass may send (contract 25.20).
MIN_DELETES: Final = 8
MAX_DELETES: Final = 50
# Seconds for which a file must stay away before it is deleted on the other side.
DELETE_AFTER_S: Final = 30.0


class Act(StrEnum):
    """What to do about a path."""

    AGREE = "agree"  # both sides hold the same: that is the new base
    LEAVE = "leave"  # do nothing and keep the base
    PULL = "pull"  # fetch the remote content over the local one
    CREATE = "create"  # send the file as a new memory
    UPDATE = "update"  # send the file over the memory that was agreed on
    DROP = "drop"  # remove the file, which the other side has deleted
    DELETE = "delete"  # delete the memory, whose file is gone
    FORGET = "forget"  # both sides are rid of it


def decide(base: str | None, local: str | None, remote: str | None, *, read_only: bool) -> Act:
    """Return what to do about a path."""
    if remote is None:
        return _without_remote(base, local, read_only=read_only)
    if local == remote:
        return Act.AGREE
    if remote != base or read_only:
        return Act.PULL
    return Act.DELETE if local is None else Act.UPDATE


def most_deletes(known: int) -> int:
    """Return how many deletions a pass may send for a store of so many memories."""
    return max(MIN_DELETES, min(MAX_DELETES, known // 4))


def wiped(local: int, known: int) -> bool:
    """Tell whether so many files are gone at once that nobody can have meant it."""
    return local == 0 and known > 1


def _without_remote(base: str | None, local: str | None, *, read_only: bool) -> Act:
    if local is None:
        return Act.FORGET
    if base is not None and local == base:
        return Act.DROP
    return Act.LEAVE if read_only else Act.CREATE
