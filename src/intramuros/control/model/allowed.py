"""Which models a workspace may use. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from intramuros.control.model.catalogue import Catalogue

# More than any list of models holds.
MAX_PATTERNS: Final = 200
ANY_REST: Final = "*"


@dataclass(frozen=True)
class AllowList:
    """Models by id or alias; an entry that ends in ``*`` is the beginning of many."""

    patterns: frozenset[str]

    @classmethod
    def of(cls, patterns: Iterable[str]) -> "AllowList":
        """Return the list of these entries."""
        return cls(frozenset(patterns))

    def permits(self, model: str, known: Catalogue) -> bool:
        """Tell whether a model may be used, under whatever of its names it is asked for."""
        found = known.find(model)
        names = [model] if found is None else [model, found.id, *found.aliases]
        return any(self._names(name) for name in names)

    def _names(self, name: str) -> bool:
        if name in self.patterns:
            return True
        starts = (p.removesuffix(ANY_REST) for p in self.patterns if p.endswith(ANY_REST))
        return any(name.startswith(start) for start in starts)


def refused(models: Sequence[str], allowed: AllowList | None, known: Catalogue) -> list[str]:
    """Return those of some models that a list does not permit; without a list none."""
    if allowed is None:
        return []
    return [model for model in dict.fromkeys(models) if not allowed.permits(model, known)]
