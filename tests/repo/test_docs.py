"""Documents point at what exists and name every dependency."""

import re
from pathlib import Path

import pytest

from tests.repo.test_locks import direct_requirements
from tests.repo.tree import ROOT, project, tracked, violations

DECISIONS = ROOT / "docs" / "decisions"
LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)(?:#[^)]*)?\)")


def pages() -> list[Path]:
    return sorted(path for path in DECISIONS.glob("[0-9]*.md") if not path.name.startswith("0000"))


def test_links_lead_somewhere() -> None:
    dead = [
        f"{page}: {target}"
        for page in tracked("*.md")
        for target in LINK.findall((ROOT / page).read_text())
        if "://" not in target and not (ROOT / page.parent / target).exists()
    ]
    assert not dead, violations(dead, "mend or remove the link:")


def test_decisions_are_numbered_without_gaps_and_indexed() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert [int(page.name[:4]) for page in pages()] == list(range(1, len(pages()) + 1))
    assert [page.name for page in pages() if page.name not in index] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_decisions_follow_the_template(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert headings == ["Context", "Choice", "Rejected", "Cost"]
    assert re.search(rf"^# {page.name[:4]} ", page.read_text(), re.MULTILINE)
    assert re.search(r"^\*Status: .*\d{4}-\d{2}-\d{2}", page.read_text(), re.MULTILINE)


def test_every_dependency_has_its_row() -> None:
    rows = re.findall(r"^\| ([\w.-]+) \|", (DECISIONS / "0009-dependencies.md").read_text(), re.M)
    direct = {requirement.name for requirement in direct_requirements()}
    assert direct - set(rows) == set(), "say who keeps it, what it saves, what leaves if it dies"
    assert set(rows) - direct - {"package"} == set(), "take the row of what we dropped out"


def test_every_development_tool_is_named() -> None:
    page = (DECISIONS / "0009-dependencies.md").read_text()
    named = [*project()["dependency-groups"]["dev"], *project()["build-system"]["requires"]]
    assert [n for n in named if re.split(r"[^\w-]", n)[0] not in page] == []


def test_the_changelog_keeps_its_order() -> None:
    order = ["Breaking", "Added", "Changed", "Fixed", "Security"]
    for release in (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1:]:
        found = re.findall(r"^\*\*(\w+)\*\*$", release, re.MULTILINE)
        assert found == sorted(found, key=order.index)
