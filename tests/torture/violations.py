"""What the checker says. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """A promise of the design that was broken: which one, where, and what is wrong."""

    invariant: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.where}: {self.what}"
