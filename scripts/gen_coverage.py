"""Write docs/reference/contract-coverage.md: each rule of the wire contract and what proves it.

A test claims rules by its name, ``test_R197_…`` or ``test_c9_22_…`` (several in a row count), or by
``@pytest.mark.rule("c9_22", "R197")``. Test files are parsed, never imported. Rules that no test
claims stand in docs/reference/contract-exceptions.toml with a reason. Run it with
``make reference``; a test in tests/repo says when it was forgotten.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
REFERENCE: Final = ROOT / "docs" / "reference"
RULES: Final = REFERENCE / "contract-rules.toml"
EXCEPTIONS: Final = REFERENCE / "contract-exceptions.toml"
PAGE: Final = REFERENCE / "contract-coverage.md"
NOTICE: Final = "<!-- Written by scripts/gen_coverage.py; run `make reference` after a change. -->"

STATUSES: Final = {
    "tested": "a test fails when the rule is broken",
    "not yet": "comes with a feature that is not built yet",
    "untested": "built, but no test of its own claims it",
    "client": "about what a client does; there is nothing for a server to get wrong",
    "chosen": "we do otherwise, on purpose",
}
MEMBER: Final = re.compile(r"(?:and_)?(R\d{1,3}|c?\d{1,2}_\d{1,2})(?:_|$)")


@dataclass(frozen=True)
class Section:
    """One section of a contract: its rules in order."""

    contract: int
    number: int
    title: str
    rules: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """Where a rule stands: its status, and the tests or the reason."""

    status: str
    proof: str


class Broken(Exception):
    """The rules, exceptions and claims contradict each other; each problem is an argument."""


def sections() -> list[Section]:
    """Return the sections of both contracts with their rules' ids."""
    table = tomllib.loads(RULES.read_text())
    return [
        Section(s["contract"], s["number"], s["title"], tuple(span(s["rules"])))
        for s in table["section"]
    ]


def statements() -> dict[str, str]:
    """Return what single rules say, in our words."""
    found: dict[str, str] = tomllib.loads(RULES.read_text()).get("statements", {})
    return found


def span(text: str) -> Iterator[str]:
    """Yield the ids of ``R034..R042``, ``c9_1..c9_44`` or of a single id."""
    first, _, last = text.partition("..")
    if not last:
        yield canonical(first)
        return
    head = first[: re.search(r"\d+$", first).start()]  # type: ignore[union-attr]
    low, high = int(first[len(head) :]), int(last[len(head) :])
    for number in range(low, high + 1):
        yield canonical(f"{head}{number}")


def canonical(rule: str) -> str:
    """Return a rule's id as the table writes it: ``R034``, ``c9_22``."""
    if rule.startswith("R"):
        return f"R{int(rule[1:]):03d}"
    section, number = rule.removeprefix("c").split("_")
    return f"c{int(section)}_{int(number)}"


def claimed(source: str) -> Iterator[tuple[str, str, bool]]:
    """Yield (rule, test, sure) for each claim in a test file's text.

    A bare ``test_9_11_…`` is not sure: the digits may mean something else.
    """
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("test_"):
            for rule in _named(node.name.removeprefix("test_")):
                yield canonical(rule), node.name, not rule[0].isdigit()
            for rule in _marked(node.decorator_list):
                yield canonical(rule), node.name, True


def _named(name: str) -> Iterator[str]:
    while found := MEMBER.match(name):
        yield found[1]
        name = name[found.end() :]


def _marked(decorators: Iterable[ast.expr]) -> Iterator[str]:
    for decorator in decorators:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.rule":
            for argument in decorator.args:
                yield str(ast.literal_eval(argument))


def claims(folder: Path = ROOT / "tests") -> dict[str, list[str]]:
    """Return the tests that claim each rule, as ``folder/test_file.py: test_name``.

    Raises:
        Broken: a test claims a rule that does not exist.
    """
    known = {rule for section in sections() for rule in section.rules}
    found: dict[str, list[str]] = {}
    wrong = []
    for path in sorted(folder.rglob("test_*.py")):
        for rule, test, sure in claimed(path.read_text()):
            place = f"{path.relative_to(folder)}: {test}"
            if rule in known:
                tests = found.setdefault(rule, [])
                tests += [place] if place not in tests else []
            elif sure:
                wrong.append(f"{place} claims {rule}, which is no rule")
    if wrong:
        raise Broken(*wrong)
    return found


def excused(table: Mapping[str, Any]) -> tuple[dict[str, Verdict], dict[str, Verdict]]:
    """Return the single exceptions and those of groups.

    A group speaks for what is left of a feature: a rule of it that gets a test is simply tested.

    Raises:
        Broken: a status is unknown or a reason too short to be one.
    """
    single = {canonical(rule): _verdict(rule, entry) for rule, entry in table["rules"].items()}
    grouped = {
        rule: _verdict(name, entry)
        for name, entry in table.get("groups", {}).items()
        for part in entry["rules"]
        for rule in span(part)
    }
    return single, grouped


def _verdict(name: str, entry: Mapping[str, Any]) -> Verdict:
    status, reason = entry.get("status", "chosen"), entry.get("reason", "")
    if status not in STATUSES or status == "tested":
        raise Broken(f"{name}: the status {status!r} is none of {sorted(STATUSES)}")
    if len(reason) < 15:
        raise Broken(f"{name}: say why")
    return Verdict(status, reason)


def verdicts() -> dict[str, Verdict]:
    """Return where every rule stands.

    Raises:
        Broken: a rule is neither claimed nor excused, or both, or unknown.
    """
    single, grouped = excused(tomllib.loads(EXCEPTIONS.read_text()))
    tests = claims()
    known = [rule for section in sections() for rule in section.rules]
    problems = [f"{r}: excused, but no such rule" for r in {*single, *grouped} - {*known}]
    problems += [f"{r}: tested, so take its exception out" for r in single if r in tests]
    found = {}
    for rule in known:
        if rule in tests:
            found[rule] = Verdict("tested", "; ".join(f"`{test}`" for test in tests[rule]))
        elif rule in single or rule in grouped:
            found[rule] = single.get(rule) or grouped[rule]
        else:
            problems.append(f"{rule}: write a test that claims it, or an exception")
    if problems:
        raise Broken(*sorted(problems))
    return found


def page() -> str:
    """Return the page: what the words mean, the counts, then each section's rules."""
    found = verdicts()
    shown = list(STATUSES)
    parts = [
        "# What proves the contract",
        NOTICE,
        "Every rule of the wire contract that we hold ourselves to, and the tests that fail when "
        "it is broken, or why there is none. `c9_22` is rule 22 of section 9 of the Managed Agents "
        "contract, `R197` a rule about everything around it. The rules are listed in "
        "[contract-rules.toml](contract-rules.toml), the exceptions in "
        "[contract-exceptions.toml](contract-exceptions.toml).",
        "\n".join(f"- **{status}**: {meaning}" for status, meaning in STATUSES.items()),
        "## Counts",
        _counts(found, shown),
    ]
    said = statements()
    for section in sections():
        parts += [f"## {_heading(section)}", _table(section, found, said)]
    return "\n\n".join(parts) + "\n"


def _heading(section: Section) -> str:
    kind = "Managed Agents" if section.contract == 1 else "Around it"
    return f"{kind} {section.number}: {section.title}"


def _counts(found: Mapping[str, Verdict], shown: list[str]) -> str:
    head = "| section | rules | " + " | ".join(shown) + " |"
    rows = [head, "|---|" + "---:|" * (len(shown) + 1)]
    for title, rules in [
        *((_heading(section), section.rules) for section in sections()),
        ("**all**", tuple(found)),
    ]:
        tally = [sum(found[rule].status == status for rule in rules) for status in shown]
        rows.append(f"| {title} | {len(rules)} | " + " | ".join(map(str, tally)) + " |")
    return "\n".join(rows)


def _table(section: Section, found: Mapping[str, Verdict], said: Mapping[str, str]) -> str:
    rows = ["| rule | what it asks | status | tests, or why none |", "|---|---|---|---|"]
    for rule in section.rules:
        verdict = found[rule]
        rows.append(f"| {rule} | {said.get(rule, '')} | {verdict.status} | {verdict.proof} |")
    return "\n".join(rows)


if __name__ == "__main__":
    try:
        PAGE.write_text(page())
    except Broken as broken:
        sys.exit("\n".join(map(str, broken.args)))
