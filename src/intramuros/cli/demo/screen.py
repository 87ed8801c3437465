"""What the demo shows: steps as they are done, the trace, what crossed, what held."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from intramuros.cli.crossing import Crossing, totals
from intramuros.cli.demo.proofs import Proof
from intramuros.cli.sessions import print_trace
from intramuros.cli.trace import Event, Line, text_of, trace
from intramuros.kernel.timing import Clock

_SHOWN_DIGESTS: Final = 4


class Screen:
    """Prints to one console; times each step since the one before."""

    def __init__(self, clock: Clock, console: Console | None = None) -> None:
        self._clock = clock
        self._console = console or Console(highlight=False)
        self._last = clock.monotonic()

    def title(self, text: str) -> None:
        """Begin a part."""
        self._console.print()
        self._console.print(Text(text, style="bold"))

    def say(self, text: str, style: str = "") -> None:
        """Print a line of explanation."""
        self._console.print(Text(f"  {text}", style=style), soft_wrap=True)

    def step(self, what: str, detail: str) -> None:
        """Print that something is done, and how long it took."""
        now = self._clock.monotonic()
        line = Text("  ✓ ", style="green")
        line.append(f"{what:<14}", style="bold")
        line.append(f" {detail}", style="default not bold")
        line.append(f"  {now - self._last:.1f} s", style="dim")
        self._last = now
        self._console.print(line, soft_wrap=True)

    def supervised(self, name: str, what: str) -> None:
        """Print that a program died and is started again."""
        if what == "died":
            self.say(f"! {name} died; it is started again", style="yellow")

    def event(self, event: Event) -> None:
        """Print an event of the session as it happens."""
        kind = event.get("type")
        if kind == "agent.message":
            said = text_of(event).strip().splitlines()
            self.say(f"agent: {said[0] if said else ''}", style="magenta")
        elif kind in ("agent.tool_use", "agent.mcp_tool_use"):
            for line in trace([event]):
                self.say(f"  → {line.where}: {line.what.removesuffix(' (unanswered)')}")
        elif kind == "session.error":
            for line in trace([event]):
                self.say(f"! {line.what}", style="red")

    def trace(self, lines: list[Line]) -> None:
        """Print the whole trace."""
        print_trace(self._console, lines)

    def crossed(self, found: Sequence[Crossing]) -> None:
        """Print what crossed the wall: sums by rule, and some of the digests."""
        grid = Table("program", "direction", "rule", box=None, pad_edge=False, header_style="dim")
        grid.add_column("count", justify="right")
        grid.add_column("bytes", justify="right")
        for total in totals(found):
            row = (total.program, total.direction, total.rule, str(total.count), str(total.bytes))
            grid.add_row(*row)
        self._console.print(grid)
        shown = sorted(found, key=lambda crossing: -crossing.bytes)[:_SHOWN_DIGESTS]
        self.say(f"the {len(shown)} largest of {len(found)}:", style="dim")
        for crossing in shown:
            self.say(
                f"{crossing.direction:>3}  {crossing.bytes:>7} B  sha256 {crossing.sha256[:16]}…"
                f"  {crossing.program}: {crossing.what}"
            )

    def proofs(self, proofs: Sequence[Proof]) -> None:
        """Print what held and what did not."""
        for proof in proofs:
            line = Text("  ✓ " if proof.held else "  ✗ ", style="green" if proof.held else "red")
            line.append(proof.claim, style="bold")
            line.append(f"  {proof.seen}", style="dim")
            self._console.print(line, soft_wrap=True)
