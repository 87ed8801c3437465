"""What a dream changed, for people: counts, and a diff of each memory. Pure."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from intramuros.control.dreams.plan import Dream

NAME: Final = "dream-report.md"
MAX_CHARS: Final = 4_000_000
# Comparing takes the product of both lengths in the worst case.
_MAX_LINES: Final = 2_000


@dataclass(frozen=True)
class Compared:
    """One path before and after.

    Args:
        before: what the input store held; None where it held nothing.
        after: what the output store holds; None where it holds nothing.
        lost: whether the text before is known no more, because its version was redacted.
        reason: why the model deleted it.
    """

    path: str
    before: str | None
    after: str | None
    lost: bool = False
    reason: str | None = None

    @property
    def kind(self) -> str:
        """One of added, changed, deleted and unchanged."""
        if self.before is None and not self.lost:
            return "added"
        if self.after is None:
            return "deleted"
        return "unchanged" if self.before == self.after else "changed"


_ORDER: Final = ("added", "changed", "deleted", "unchanged")


def write(dream: Dream, compared: Sequence[Compared], usage: Mapping[str, int]) -> str:
    """Return the report, in Markdown; it is cut where it gets too long for anybody."""
    groups: dict[str, list[Compared]] = {kind: [] for kind in _ORDER}
    for one in compared:
        if one.before is not None or one.after is not None or one.lost:
            groups[one.kind].append(one)
    written = 0
    lines: list[str] = []
    for line in _lines(dream, groups, usage):
        written += len(line) + 1
        if written > MAX_CHARS:
            lines.append("\n*The rest is left out: the report is too long.*")
            break
        lines.append(line)
    return "\n".join(lines) + "\n"


def _lines(
    dream: Dream, groups: Mapping[str, Sequence[Compared]], usage: Mapping[str, int]
) -> Iterator[str]:
    where = "in place" if dream.updates else f"into {dream.output_id}"
    yield f"# Dream {dream.id}"
    yield ""
    yield f"{dream.status}: {dream.store_id} and {len(dream.session_ids)} sessions, {where}, "
    yield f"by {dream.model['id']}."
    if dream.error is not None:
        yield f"\nError: {dream.error['type']}: {_one_line(dream.error['message'])}"
    yield ""
    yield "| memories | |"
    yield "|---|---|"
    yield from (f"| {kind} | {len(groups[kind])} |" for kind in _ORDER)
    yield ""
    spent = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in usage.items())
    yield f"Tokens: {spent}."
    for kind in _ORDER[:3]:
        if groups[kind]:
            yield f"\n## {kind.capitalize()}"
        for one in groups[kind]:
            yield from _entry(one)
    if groups["unchanged"]:
        yield "\n## Unchanged\n"
        yield from (f"- {_code(one.path)}" for one in groups["unchanged"])


def _entry(one: Compared) -> Iterator[str]:
    yield f"\n### {_code(one.path)}\n"
    if one.reason is not None and one.after is None:
        yield f"Reason: {_one_line(one.reason)}\n"
    if one.lost:
        yield "The text before was redacted.\n"
        return
    body = list(_diff((one.before or "").splitlines(), (one.after or "").splitlines()))
    # Longer than any fence inside, so that no memory can end it.
    fence = "`" * max(3, 1 + max((_ticks(line) for line in body), default=0))
    yield f"{fence}diff"
    yield from body
    yield fence


def _diff(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    if len(before) + len(after) > _MAX_LINES and before and after:
        yield f"@@ too long to compare: {len(before)} lines became {len(after)} @@"
        return
    for line in difflib.unified_diff(before, after, lineterm="", n=3):
        if not line.startswith(("---", "+++")) or line.strip("-+ "):
            yield line


def _ticks(line: str) -> int:
    """Return the longest run of backticks."""
    longest = run = 0
    for char in line:
        run = run + 1 if char == "`" else 0
        longest = max(longest, run)
    return longest


def _code(path: str) -> str:
    marks = "`" * (1 + _ticks(path))
    return f"{marks}{path}{marks}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
