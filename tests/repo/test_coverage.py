"""Every rule of the contract is proven by a test that names it, or excused with a reason."""

from pathlib import Path

import pytest
from scripts import gen_coverage as coverage

SOURCE = """
@pytest.mark.rule("c9_22", "R7")
@pytest.mark.parametrize("a", [1])
async def test_one(a): ...
class TestMore:
    def test_R197_R198_c4_1_words_5_6(self): ...
def test_9_11_bare(): ...
def test_c3_1(): ...
def test_18_previews(): ...
def helper_R001(): ...
"""


def test_the_coverage_table_is_current() -> None:
    try:
        wanted = coverage.page()
    except coverage.Broken as broken:
        pytest.fail("\n".join(map(str, broken.args)), pytrace=False)
    current = coverage.PAGE.exists() and coverage.PAGE.read_text() == wanted
    assert current, "run `make reference` (python -m scripts.gen_coverage) and commit the page"


def test_claims_come_from_names_and_markers() -> None:
    assert set(coverage.claimed(SOURCE)) == {
        ("c9_22", "test_one", True),
        ("R007", "test_one", True),
        ("R197", "test_R197_R198_c4_1_words_5_6", True),
        ("R198", "test_R197_R198_c4_1_words_5_6", True),
        ("c4_1", "test_R197_R198_c4_1_words_5_6", True),
        ("c9_11", "test_9_11_bare", False),
        ("c3_1", "test_c3_1", True),
    }


def test_a_claim_to_a_rule_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text("def test_c99_1_x(): ...\ndef test_99_1_y(): ...\n")
    with pytest.raises(coverage.Broken, match=r"test_x\.py: test_c99_1_x claims c99_1"):
        coverage.claims(tmp_path)


def test_spans_are_inclusive() -> None:
    assert list(coverage.span("R9..R11")) == ["R009", "R010", "R011"]
    assert list(coverage.span("c9_9..c9_10")) == ["c9_9", "c9_10"]
    assert list(coverage.span("R5")) == ["R005"]


@pytest.mark.parametrize(
    "entry", [{"status": "tested", "reason": "x" * 20}, {"status": "maybe"}, {"reason": "short"}]
)
def test_exceptions_need_a_status_and_a_reason(entry: dict[str, str]) -> None:
    with pytest.raises(coverage.Broken, match="R1: "):
        coverage.excused({"rules": {"R1": entry}})


def test_statements_belong_to_rules() -> None:
    known = {rule for section in coverage.sections() for rule in section.rules}
    assert set(coverage.statements()) - known == set()
