"""What no file of ours may say."""

import re
from pathlib import Path

import pytest

from tests.repo.tree import ROOT, tracked, violations

# Spelt in pieces, because this file is read by its own rule.
MACHINE_PATHS = re.compile(r"(?<![\w./}…-])/" + r"(?:work|root|home/\w+|Users/\w+)/")
INDEX_ADDRESSES = re.compile(
    "|".join(
        [
            r"pypi\." + "org",
            r"files\.python" + "hosted",
            r"registry\.npm" + "js",
            r"--(?:extra-)?index" + r"-url[= ]+\S*[/.]",
            r"--find" + r"-links[= ]+\S*[/.]",
        ]
    )
)
# What sandboxes may be let reach; we fetch nothing from there.
REGISTRIES = Path("src", "intramuros", "execution", "egress", "registries.py")
BARE_IGNORE = re.compile(r"#\s*type:\s*" + r"ignore(?!\[[\w-]+(?:,\s*[\w-]+)*\]\s+\S)")
BARE_NOQA = re.compile(r"#\s*no" + r"qa(?!: [A-Z]+\d+(?:, ?[A-Z]+\d+)*\s+\S)")
LEFT_OVER = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def text_of(path: Path) -> str:
    try:
        return (ROOT / path).read_text()
    except UnicodeDecodeError:
        return ""


def offenders(rule: re.Pattern[str], *patterns: str) -> list[str]:
    found = []
    for path in tracked(*patterns):
        before = ""
        if rule is INDEX_ADDRESSES and path == REGISTRIES:
            continue
        for number, line in enumerate(text_of(path).splitlines(), 1):
            # A reason may also stand in a comment of its own, right above.
            # Only src is read by mypy; elsewhere ruff asks for the code.
            if rule is BARE_IGNORE and path.parts[0] != "src":
                break
            reasoned = rule in (BARE_NOQA, BARE_IGNORE) and before.lstrip().startswith("#")
            if rule.search(line) and not reasoned:
                found.append(f"{path}:{number}: {line.strip()[:100]}")
            before = line
    return found


@pytest.mark.parametrize(
    ("rule", "patterns", "cure"),
    [
        (MACHINE_PATHS, (), "name no path of the machine it was written on:"),
        (INDEX_ADDRESSES, (), "where packages come from is the installer's business:"),
        (BARE_IGNORE, ("*.py",), "give the error code and the reason:"),
        (BARE_NOQA, ("*.py",), "give the rule and the reason:"),
        (LEFT_OVER, (), "finish it or leave it out:"),
    ],
    ids=["machine-paths", "index-addresses", "type-ignores", "noqa", "left-over"],
)
def test_text(rule: re.Pattern[str], patterns: tuple[str, ...], cure: str) -> None:
    found = offenders(rule, *patterns)
    assert not found, violations(found, cure)


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (MACHINE_PATHS, "see /ro" + "ot/x", "bind /usr and ./wo" + "rk/x"),
        (INDEX_ADDRESSES, "https://py" + "pi.org/simple", "a package index"),
        (BARE_IGNORE, "x = 1  # type: " + "ignore", "x  # type: " + "ignore[arg-type]  untyped"),
        (BARE_IGNORE, "x  # type: " + "ignore[misc]", "x  # type: " + "ignore[misc]  a reason"),
        (BARE_NOQA, "x  # no" + "qa: S101", "x  # no" + "qa: S101  a reason"),
        (LEFT_OVER, "# TO" + "DO later", "todos are a noun"),
    ],
)
def test_the_rules_tell_bad_from_good(rule: re.Pattern[str], bad: str, good: str) -> None:
    assert rule.search(bad)
    assert not rule.search(good)
