from sqlalchemy import select, update

from intramuros.control.session import removal
from intramuros.control.store.db import Tx
from intramuros.control.store.tables import blobs, leases, resources, sessions
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.work import WorkState
from tests.fakes.world import World
from tests.unit.control.conftest import WORKSPACE


def ended(world: World) -> str:
    session_id = world.create()
    world.sessions.archive(world.tx, world.api, session_id)
    return session_id


def test_what_is_a_sessions_own_goes_with_it(tx: Tx, clock: ManualClock, ids: IdFactory) -> None:
    world = World(tx, clock, ids, WORKSPACE)
    session_id = world.create()
    world.serve(session_id)
    world.say(session_id)
    (item,) = world.items(session_id)
    tx.execute(update(sessions).where(sessions.c.id == session_id).values(status="terminated"))
    clock.advance(10)
    assert world.sessions.removal.expire(tx, session_id, world.now_us)
    assert world.items(session_id) == []
    stopped = select(leases.c.state).where(leases.c.id == item.id)
    assert tx.scalar(stopped) == WorkState.STOPPED
    assert tx.scalar(select(leases.c.id).where(leases.c.queue == "turn")) is None
    for table, column in ((resources, resources.c.parent_id), (blobs, blobs.c.owner_id)):
        assert tx.scalar(select(table).where(column == session_id)) is None
    # Once is enough.
    assert not world.sessions.removal.expire(tx, session_id, world.now_us)


def test_the_oldest_come_first_and_no_more_than_asked_for(
    tx: Tx, clock: ManualClock, ids: IdFactory
) -> None:
    world = World(tx, clock, ids, WORKSPACE)
    gone = []
    for _ in range(3):
        gone.append(ended(world))
        clock.advance(10)
    world.create()
    assert removal.over(tx, world.now_us, 9) == gone
    assert removal.over(tx, world.now_us, 2) == gone[:2]
    assert removal.over(tx, world.now_us - 25_000_000, 9) == gone[:1]
    # An archive later than the end counts.
    late = update(sessions).where(sessions.c.id == gone[0]).values(archived_us=world.now_us)
    tx.execute(late)
    assert removal.over(tx, world.now_us, 9) == gone[1:]
    assert not world.sessions.removal.expire(tx, gone[0], world.now_us)
