"""Time filters of lists: four bracketed parameters become one half-open interval."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query

from intramuros.control.api.lists import time_bound


@dataclass(frozen=True)
class Bounds:
    """Microseconds since the epoch: from (inclusive) until (exclusive); None is open."""

    from_us: int | None = None
    until_us: int | None = None

    def hold(self, at_us: int) -> bool:
        """Tell whether a time lies inside."""
        return (self.from_us is None or at_us >= self.from_us) and (
            self.until_us is None or at_us < self.until_us
        )


async def _bounds(
    gt: Annotated[str | None, Query(alias="created_at[gt]")] = None,
    gte: Annotated[str | None, Query(alias="created_at[gte]")] = None,
    lt: Annotated[str | None, Query(alias="created_at[lt]")] = None,
    lte: Annotated[str | None, Query(alias="created_at[lte]")] = None,
) -> Bounds:
    """Read the four parameters (contract 1.29).

    Raises:
        InvalidRequest: one is no timestamp.
    """
    above, at_least = time_bound("created_at[gt]", gt), time_bound("created_at[gte]", gte)
    below, at_most = time_bound("created_at[lt]", lt), time_bound("created_at[lte]", lte)
    froms = [at for at in (at_least, None if above is None else above + 1) if at is not None]
    untils = [at for at in (below, None if at_most is None else at_most + 1) if at is not None]
    return Bounds(max(froms, default=None), min(untils, default=None))


BoundsDep = Annotated[Bounds, Depends(_bounds)]
