from intramuros.control.session.phase import (
    AFTERLIFE,
    QUEUEABLE,
    STATUS_OF,
    STEADY,
    TRANSITIONS,
    Phase,
)


def test_every_phase_has_moves_and_a_status() -> None:
    assert set(TRANSITIONS) == set(Phase) == set(STATUS_OF)


def test_every_phase_but_the_end_can_be_reached_and_left() -> None:
    targets = {target for moves in TRANSITIONS.values() for target in moves.values()}
    assert targets == set(Phase)
    stuck = {phase for phase, moves in TRANSITIONS.items() if not set(moves.values()) - {phase}}
    assert stuck == {Phase.TERMINATED}


def test_a_type_either_moves_the_phase_or_leaves_it_alone() -> None:
    moving = {symbol for moves in TRANSITIONS.values() for symbol in moves}
    assert not moving & (STEADY | AFTERLIFE)
    assert QUEUEABLE <= STEADY
