import json

from intramuros.control.session.phase import Status
from intramuros.control.session.state import initial, load


def test_a_new_session_is_idle_and_has_nothing_to_do() -> None:
    state = initial("sthr_main", self_hosted=True)
    assert state.status is Status.IDLE
    assert not state.due
    assert load(json.loads(json.dumps(state.dump()))) == state
