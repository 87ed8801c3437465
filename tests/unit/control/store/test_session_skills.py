import pytest

from intramuros.control.store import session_skills
from intramuros.control.store.db import Tx
from intramuros.control.store.session_skills import SessionSkill
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.resources.skills import Manifest
from tests.fakes.world import World


@pytest.fixture
def world(tx: Tx, clock: ManualClock, ids: IdFactory) -> World:
    return World(tx, clock, ids, "wrkspc_test")


def test_skills_stay_with_their_session(world: World) -> None:
    session_id = world.create()
    held = [
        SessionSkill("skill_b", "skver_1", Manifest("b", "B")),
        SessionSkill("skill_a", "skver_2", Manifest("a", "A")),
    ]
    session_skills.attach(world.tx, session_id, held)
    assert session_skills.of(world.tx, session_id) == held
    assert session_skills.in_session(world.tx, session_id, "skill_a")
    assert not session_skills.in_session(world.tx, session_id, "skill_c")
    assert session_skills.in_environment(world.tx, world.environment_id, "skill_a")
    assert not session_skills.in_environment(world.tx, "env_other", "skill_a")
    world.sessions.delete(world.tx, world.api, session_id)
    assert session_skills.of(world.tx, session_id) == []
