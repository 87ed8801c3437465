"""Everything that an operator has looked for in one text: patterns, words, held secrets, plug-ins.

Synchronous, and without a clock: whoever calls decides on which thread, and how long it may take.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from intramuros.execution.outflow.findings import HELD, Action, Finding
from intramuros.execution.outflow.patterns import Patterns
from intramuros.execution.outflow.views import MAX_DEPTH, views
from intramuros.execution.outflow.words import Held, Words

Plugin = Callable[[str], Iterable[tuple[int, int]]]
"""From a text to the ranges of characters in it that are not to leave as they are."""


class PluginFailed(Exception):
    """A plug-in raised, or returned no ranges: what it looked at is withheld."""


@dataclass(frozen=True)
class Search:
    """What to look for, and what to do with what is found."""

    patterns: Patterns
    words: Sequence[Words] = ()
    plugins: Mapping[str, Plugin] = field(default_factory=dict)
    actions: Mapping[str, Action] = field(default_factory=dict)
    """By rule; what is not named is masked. Held secrets are masked at least."""

    def action(self, rule: str) -> Action:
        """Return what is done with what a rule finds."""
        action = self.actions.get(rule, Action.MASK)
        return max(action, Action.MASK) if rule == HELD else action

    def find(self, data: bytes, held: Held, *, text: bool = True) -> list[Finding]:
        """Return what is in a text, encoded parts included.

        Args:
            held: the secrets that the worker holds now.
            text: whether it is text; in other bytes only what cannot be there by chance counts.

        Raises:
            TooMany: a rule matches too often.
            PluginFailed: a plug-in did not do its work.
        """
        found = self._within(data, held, 1, text=text)
        if text and self.plugins:
            found += _plugged(self.plugins, data)
        return found

    def _within(self, data: bytes, held: Held, depth: int, *, text: bool) -> list[Finding]:
        found = self.patterns.find(data, text=text)
        found += held.find(data)
        for words in self.words:
            found += words.find(data)
        if depth > MAX_DEPTH:
            return found
        for view in views(data):
            for one in self._within(view.data, held, depth + 1, text=True):
                found.append(Finding(*view.place(one.start, one.end), one.rule))
        return found


_CUT: Final = "surrogateescape"


def _plugged(plugins: Mapping[str, Plugin], data: bytes) -> list[Finding]:
    text = data.decode("utf-8", _CUT)
    found = []
    for name, plugin in plugins.items():
        try:
            ranges = [(int(start), int(end)) for start, end in plugin(text)]
        except Exception as error:
            raise PluginFailed(f"plug-in {name!r} failed ({type(error).__name__})") from error
        for start, end in ranges:
            if not 0 <= start < end <= len(text):
                raise PluginFailed(f"plug-in {name!r} returned a range that is none")
            before = len(text[:start].encode("utf-8", _CUT))
            size = len(text[start:end].encode("utf-8", _CUT))
            found.append(Finding(before, before + size, name))
    return found
