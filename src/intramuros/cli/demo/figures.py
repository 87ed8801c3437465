"""The auditor's task, and the figures computed a second time to check the answer. Pure.

The check takes the package's own rows, neither the files nor the database that the agent saw, and
counts with exact fractions, so that it shares no step with the agent's script.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Final

Row = Mapping[str, str]

MOUNT: Final = "/data/applications"

TASK: Final = f"""\
You are auditing the mortgage decisions of a bank. The applications are CSV files in {MOUNT}
(start with README.md there). What the bank decided on each is in its database, which you reach only
through the `bank` MCP server: `decisions(application_id, action)` and `actions(action, meaning)`.

Find out whether denials differ between groups, and how they go with the debt ratio (`obrat`).
Look at the files and at the database's tables first. Then take the ids of the denied applications
from the database, write them to a file in your working directory, write a Python script that joins
them with the applications, and run it.

End with a short summary and one JSON code block with exactly these members; percentages and means
are rounded to two decimals:

* `applications`, `denied`: how many there are
* `denial_rate`: denied, in percent of all applications
* `denial_rate_white`, `denial_rate_black`, `denial_rate_hispanic`: the same within the applications
  whose `white`, `black` or `hispan` is 1
* `mean_debt_ratio_denied`, `mean_debt_ratio_approved`: mean of `obrat`
* `denial_rate_debt_ratio_over_36`: denied, in percent of the applications with `obrat` over 36
"""

_BLOCK: Final = re.compile(r"```(?:json)?\s*(\{.*?\})\s*```", re.S)


def recompute(rows: Sequence[Row]) -> dict[str, Decimal]:
    """Return the figures, from the package's rows."""

    def denied(row: Row) -> bool:
        return row["action"] == "3"

    def rate(inside: Callable[[Row], bool]) -> Decimal:
        group = [row for row in rows if inside(row)]
        return _rounded(Fraction(100 * sum(map(denied, group)), len(group)))

    def mean(chosen: Callable[[Row], bool]) -> Decimal:
        ratios = [Fraction(row["obrat"]) for row in rows if chosen(row)]
        return _rounded(sum(ratios, Fraction(0)) / len(ratios))

    return {
        "applications": Decimal(len(rows)),
        "denied": Decimal(sum(map(denied, rows))),
        "denial_rate": rate(lambda row: True),
        "denial_rate_white": rate(lambda row: row["white"] == "1"),
        "denial_rate_black": rate(lambda row: row["black"] == "1"),
        "denial_rate_hispanic": rate(lambda row: row["hispan"] == "1"),
        "mean_debt_ratio_denied": mean(denied),
        "mean_debt_ratio_approved": mean(lambda row: not denied(row)),
        "denial_rate_debt_ratio_over_36": rate(lambda row: Fraction(row["obrat"]) > 36),
    }


def reported(answer: str) -> dict[str, Decimal]:
    """Return the figures of the last JSON block in the agent's answer.

    Raises:
        ValueError: there is none, or a member is no number.
    """
    blocks = _BLOCK.findall(answer)
    if not blocks:
        raise ValueError("the answer has no JSON block of figures")
    data = json.loads(blocks[-1], parse_float=Decimal, parse_int=Decimal)
    if not isinstance(data, dict):
        raise ValueError("the JSON block is no object")
    wrong = [str(key) for key, value in data.items() if not isinstance(value, Decimal)]
    if wrong:
        raise ValueError(f"no number: {', '.join(wrong)}")
    return data


def differences(answer: Mapping[str, Decimal], truth: Mapping[str, Decimal]) -> list[str]:
    """Return one line for each figure that is missing, superfluous or wrong."""
    lines = [f"{key}: unexpected" for key in answer if key not in truth]
    for key, expected in truth.items():
        if key not in answer:
            lines.append(f"{key}: missing, expected {expected}")
        elif answer[key] != expected:
            lines.append(f"{key}: {answer[key]}, expected {expected}")
    return lines


def _rounded(value: Fraction) -> Decimal:
    scaled = Decimal(value.numerator) / Decimal(value.denominator)
    return scaled.quantize(Decimal("0.01"), ROUND_HALF_EVEN)
