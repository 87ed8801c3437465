"""The switch of the compliance feed, and the index over the records that it shows.

While it is off, nothing is captured, and what happened then is never in the feed (contract-2 R373);
the audit chain itself has no switch.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import delete, insert, select

from intramuros.control.identity.activity_actors import actor_id
from intramuros.control.identity.activity_types import TYPES
from intramuros.control.store.db import Tx
from intramuros.control.store.prepared import Prepared
from intramuros.control.store.tables import activities, compliance
from intramuros.kernel.timing import Clock, to_micros

_SWITCH: Final = "activities"


def enabled(tx: Tx) -> bool:
    """Return whether activities are captured; at first they are not."""
    return bool(tx.run(_ENABLED).scalar())


def switch(tx: Tx, clock: Clock, *, on: bool) -> None:
    """Capture activities from now on, or no more."""
    tx.execute(delete(compliance).where(compliance.c.name == _SWITCH))
    now_us = to_micros(clock.now())
    tx.execute(insert(compliance).values(name=_SWITCH, enabled=on, changed_us=now_us))


def capture(tx: Tx, seq: int, at_us: int, kind: str, fields: Mapping[str, Any]) -> None:
    """Take a record of the chain into the feed, if it is an activity and capturing is on."""
    found = TYPES.get(kind)
    if found is not None and enabled(tx):
        row = {"seq": seq, "at_us": at_us, "type": found.name, "actor_id": actor_id(fields)}
        tx.later(_APPEND, row)


_ENABLED: Final = Prepared(select(compliance.c.enabled).where(compliance.c.name == _SWITCH))
_APPEND: Final = Prepared(insert(activities))
