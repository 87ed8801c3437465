"""See also tests/integration/control/session/test_opening.py."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from intramuros.control.session.intake import Intake
from intramuros.control.session.journal import NotBegun
from intramuros.control.store import events, leases
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.events import INBOUND
from tests.fakes.world import World

pytestmark = pytest.mark.anyio


class Jots:
    """A database of one open transaction, in which what fails is undone."""

    def __init__(self, tx: Tx) -> None:
        self.tx = tx
        self.keys: list[Sequence[str]] = []

    async def jot(self, work: Callable[[Tx], Any], keys: Sequence[str]) -> Any:
        self.keys.append(keys)
        with self.tx.connection.begin_nested():
            return work(self.tx)


class Starter:
    """Begins nothing, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked = 0
        self._error = error

    def begin(self, tx: Tx, held: Any, written: Sequence[Any]) -> None:
        assert written[0].seq == held.end.seq + 1
        self.asked += 1
        if self._error is not None:
            raise self._error


def said(text: str = "x") -> list[Any]:
    content = [{"type": "text", "text": text}]
    return [INBOUND.validate_python({"type": "user.message", "content": content})]


async def test_without_anybody_who_runs_turns_they_are_offered(world: World) -> None:
    session = world.create()
    db: Any = Jots(world.tx)
    (stored,) = await Intake(db, world.journal).accept(world.api, session, said())
    assert events.by_id(world.tx, session, stored.id) == stored
    assert leases.claim(world.tx, leases.TURNS, "me", world.now_us, 1).key == session
    assert db.keys == [(session,)]


@pytest.mark.parametrize("error", [None, RuntimeError("lost its mind")])
async def test_what_is_not_begun_is_offered(world: World, error: Exception | None) -> None:
    session = world.create()
    db: Any = Jots(world.tx)
    intake, starter = Intake(db, world.journal), Starter(error)
    intake.serve(starter)
    await intake.accept(world.api, session, said())
    assert starter.asked == 1
    assert len(db.keys) == (1 if error is None else 2)
    assert len([r for r in events.read(world.tx, session) if r.type == "user.message"]) == 1
    assert leases.claim(world.tx, leases.TURNS, "me", world.now_us, 1).key == session


async def test_what_starts_no_turn_begins_none(world: World) -> None:
    session = world.create()
    intake, starter = Intake(Jots(world.tx), world.journal), Starter(NotBegun("never asked"))
    intake.serve(starter)
    content = [{"type": "text", "text": "x"}]
    note = INBOUND.validate_python({"type": "system.message", "content": content})
    await intake.accept(world.api, session, [note])
    assert starter.asked == 0
    with pytest.raises(InvalidRequest):
        result = {"type": "user.tool_result", "tool_use_id": "sevt_unknown"}
        await intake.accept(world.api, session, [INBOUND.validate_python(result)])
