"""Locks in one order, and limits of the transaction's own."""

import random

import pytest

from intramuros.control.store import postgres_begin as opening
from intramuros.kernel.errors import OperatorError


def test_keys_are_locked_in_the_order_of_their_numbers() -> None:
    keys = [f"session_{n}" for n in range(20)]
    ordered = opening.begin("1", sorted(keys))
    random.Random(7).shuffle(keys)
    assert opening.begin("1", keys) == ordered
    numbers = [int(part.split(")")[0]) for part in ordered.split("pg_advisory_xact_lock(")[1:]]
    assert numbers == sorted(numbers)
    assert len(numbers) == 20


def test_a_key_has_one_number() -> None:
    assert opening.number_of("a") == opening.number_of("a") != opening.number_of("b")
    assert -(2**63) <= opening.number_of("\udcff") < 2**63


def test_one_that_names_no_keys_shuts_the_gate() -> None:
    assert "pg_advisory_xact_lock(6778, 1)" in opening.begin("1")
    assert "pg_advisory_xact_lock_shared(6778, 1)" in opening.begin("1", ())


def test_reads_have_one_state_and_no_lock() -> None:
    text = opening.snapshot("1", opening.WHO)
    assert text.startswith("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1, ")
    assert "lock" not in text


def test_who_waits_for_a_lock_gives_up_before_the_statement_does() -> None:
    assert "('lock_timeout', '10000', true)" in opening.limits(30)
    assert "('lock_timeout', '500', true)" in opening.limits(1)
    assert "('statement_timeout', '0', true)" in opening.limits(0)
    assert "('lock_timeout', '10000', true)" in opening.limits(0)


@pytest.mark.parametrize("seconds", [-1.0, 0.05, 86_401.0, float("nan")])
def test_limits_have_limits(seconds: float) -> None:
    with pytest.raises(OperatorError, match="a statement cannot be given"):
        opening.limits(seconds)
