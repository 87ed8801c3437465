from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.cli.demo.figures import TASK, differences, recompute, reported

ROWS = [
    {"action": a, "obrat": o, "white": w, "black": b, "hispan": h}
    for a, o, w, b, h in [
        ("3", "40", "1", "0", "0"),
        ("1", "36", "1", "0", "0"),
        ("2", "20.5", "1", "0", "0"),
        ("3", "36.25", "0", "1", "0"),
        ("1", "37", "0", "1", "0"),
        ("1", "10", "0", "0", "1"),
    ]
]
TRUTH = recompute(ROWS)


def test_figures_by_hand() -> None:
    assert {name: str(value) for name, value in TRUTH.items()} == {
        "applications": "6",
        "denied": "2",
        "denial_rate": "33.33",
        "denial_rate_white": "33.33",
        "denial_rate_black": "50.00",
        "denial_rate_hispanic": "0.00",
        "mean_debt_ratio_denied": "38.12",
        "mean_debt_ratio_approved": "25.88",
        "denial_rate_debt_ratio_over_36": "66.67",
    }


def test_the_task_asks_for_exactly_these() -> None:
    assert all(f"`{name}`" in TASK for name in TRUTH)


def test_the_last_block_counts() -> None:
    answer = 'first ```json\n{"a": 1}\n``` then\n```json\n{"b": 2.50}\n```\nend'
    assert reported(answer) == {"b": Decimal("2.5")}


@pytest.mark.parametrize(
    "answer", ["", "{}", "```json\nx\n```", "```json\n{1}\n```", '```json\n{"a": "1"}\n```']
)
def test_answers_without_figures(answer: str) -> None:
    with pytest.raises(ValueError):
        reported(answer)


def test_each_difference_is_named() -> None:
    assert differences(TRUTH, TRUTH) == []
    wrong = {**TRUTH, "denied": Decimal(3), "more": Decimal(1)}
    del wrong["denial_rate"]
    assert differences(wrong, TRUTH) == [
        "more: unexpected",
        "denied: 3, expected 2",
        "denial_rate: missing, expected 33.33",
    ]


@given(st.text())
def test_any_answer_is_figures_or_a_value_error(answer: str) -> None:
    try:
        found = reported(f"```json\n{answer}\n```")
    except ValueError:
        return
    assert all(isinstance(value, Decimal) for value in found.values())
