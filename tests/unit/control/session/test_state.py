import json
from typing import Any

from intramuros.control.session.phase import Status
from intramuros.control.session.state import initial, load


def test_a_new_session_is_idle_and_has_nothing_to_do() -> None:
    state = initial("sthr_main", self_hosted=True)
    assert state.status is Status.IDLE
    assert not state.due
    assert load(json.loads(json.dumps(state.dump()))) == state


def test_what_an_earlier_release_wrote_is_read_and_says_what_it_did_not_count() -> None:
    state = initial("sthr_main", self_hosted=True, crewed=True)
    assert state.crew is not None
    assert state.crew.departed_us == 0
    dumped: dict[str, Any] = json.loads(json.dumps(state.dump()))
    assert load(dumped) == state
    del dumped["crew"]["departed_us"]
    old = load(dumped)
    assert old.crew is not None
    assert old.crew.departed_us is None
    assert load(json.loads(json.dumps(old.dump()))) == old
