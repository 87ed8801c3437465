"""Many regular expressions over one text, in time linear in its length whatever they are.

RE2 knows no look-around and no back-references, and so can be made to hang by no expression.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import re2

from intramuros.execution.outflow.findings import Finding

# Findings of one rule in one text; beyond, the text is no text with a few secrets in it.
MAX_FINDINGS: Final = 50_000
_MEMORY: Final = 64 * 1024 * 1024
_MEMORY_APART: Final = 8 * 1024 * 1024


class TooMany(Exception):
    """A rule matches so often that the text is to be withheld; ``rule`` names it."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"rule {rule!r} matches more than {MAX_FINDINGS} times")
        self.rule = rule


@dataclass(frozen=True)
class Pattern:
    """One expression; what its first group matches counts, or all if it has none."""

    rule: str
    regex: str
    check: Callable[[bytes], bool] | None = None
    literal: bool = True
    """Whether bytes that are no text are searched, too."""


class Patterns:
    """Expressions, compiled once; safe to share between threads.

    Args:
        patterns: looked for all at once, in one table of states.
        apart: each looked for by itself. One that would make that table explode, as counters do,
            is searched without a table, and slows down or hides no other.

    Raises:
        ValueError: an expression that RE2 does not have, or that matches nothing at all.
    """

    def __init__(self, patterns: Sequence[Pattern], apart: Sequence[Pattern] = ()) -> None:
        self._patterns = [(pattern, _compiled(pattern)) for pattern in patterns]
        self._apart = [(pattern, _compiled(pattern, _MEMORY_APART)) for pattern in apart]
        # One pass tells which of them match anywhere; only those look where.
        options = re2.Options()
        options.max_mem = _MEMORY
        options.log_errors = False
        self._any: Any = re2.Set.SearchSet(options)
        for pattern in patterns:
            self._any.Add(pattern.regex)
        if patterns:
            self._any.Compile()

    def find(self, data: bytes, *, text: bool = True) -> list[Finding]:
        """Return every match of every expression.

        Raises:
            TooMany: one matches too often.
        """
        found: list[Finding] = []
        for number in (self._any.Match(data) or ()) if self._patterns else ():
            pattern, regex = self._patterns[number]
            if text or pattern.literal:
                found += _all(pattern, regex, data)
        for pattern, regex in self._apart:
            if text or pattern.literal:
                found += _all(pattern, regex, data)
        return found


def _all(pattern: Pattern, regex: Any, data: bytes) -> list[Finding]:  # noqa: ANN401  re2 has no types
    group = 1 if regex.groups else 0
    found = []
    for match in regex.finditer(data):
        start, end = match.span(group)
        if start < 0 or start == end:
            start, end = match.span()
        if start == end or (pattern.check is not None and not pattern.check(data[start:end])):
            continue
        found.append(Finding(start, end, pattern.rule))
        if len(found) > MAX_FINDINGS:
            raise TooMany(pattern.rule)
    return found


def _compiled(pattern: Pattern, max_mem: int = _MEMORY) -> Any:  # noqa: ANN401  re2 has no types
    options = re2.Options()
    options.max_mem = max_mem
    options.log_errors = False
    try:
        regex: Any = re2.compile(pattern.regex, options)
    except re2.error as error:
        raise ValueError(f"{pattern.rule!r}: {_said(error)}") from error
    if regex.search(b"") is not None:
        raise ValueError(f"{pattern.rule!r} matches the empty text")
    return regex


def _said(error: Exception) -> str:
    first = error.args[0] if error.args else ""
    return first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)
