"""Pictures in docs/arch are drawn from the code."""

from scripts import draw_phases

from intramuros.control.session.phase import TRANSITIONS


def test_the_loops_picture_is_the_loops_table() -> None:
    page = draw_phases.PAGE.read_text()
    assert draw_phases.drawn(page) == page, "run `python -m scripts.draw_phases`"


def test_every_move_is_in_the_picture() -> None:
    lines = [line.strip() for line in draw_phases.diagram().splitlines()]
    for phase, moves in TRANSITIONS.items():
        for symbol, target in moves.items():
            (arrow,) = [line for line in lines if line.startswith(f"{phase} --> {target}:")]
            assert symbol.removeprefix("session.") in arrow
