"""Draw the phases of a session into docs/arch/loop.md, from the loop's own table of moves.

Run it with ``python -m scripts.draw_phases``; a test says when it was forgotten. The picture is
Mermaid text, which code hosts render and diffs can show.
"""

from pathlib import Path
from typing import Final

from intramuros.control.session.phase import TRANSITIONS, Phase

PAGE: Final = Path(__file__).parents[1] / "docs" / "arch" / "loop.md"
BEGIN: Final = "<!-- Drawn by scripts/draw_phases.py from control/session/phase.py. -->"
END: Final = "<!-- End of the drawing. -->"


def diagram() -> str:
    """Return the state diagram, one arrow for each pair of phases."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.IDLE}"]
    for phase, moves in TRANSITIONS.items():
        arrows: dict[Phase, list[str]] = {}
        for symbol, target in moves.items():
            arrows.setdefault(target, []).append(symbol.removeprefix("session."))
        lines += [
            f"    {phase} --> {target}: {'<br>'.join(symbols)}"
            for target, symbols in arrows.items()
        ]
    lines.append(f"    {Phase.TERMINATED} --> [*]")
    return "\n".join(lines)


def drawn(page: str) -> str:
    """Return the page with the current diagram between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n```mermaid\n{diagram()}\n```\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
