import pytest

from intramuros.kernel import errors
from intramuros.kernel.errors import Conflict, DomainError, Kind, OperatorError, RateLimited

DOMAIN_ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, DomainError)
]


def test_every_kind_belongs_to_exactly_one_error() -> None:
    assert sorted(error.kind for error in DOMAIN_ERRORS) == sorted(Kind)


@pytest.mark.parametrize("error", DOMAIN_ERRORS)
def test_the_message_is_public_and_the_docstring_says_what_to_do(error: type[DomainError]) -> None:
    raised = error("no session sesn_1")
    assert (raised.message, str(raised)) == ("no session sesn_1", "no session sesn_1")
    assert error.__doc__


def test_hints_travel_with_the_error() -> None:
    hints = RateLimited("slow down", code="c", details={"a": 1}, retry_after_s=2.5).hints
    assert (hints.code, hints.details, hints.retry_after_s) == ("c", {"a": 1}, 2.5)
    assert hints.should_retry is None


def test_a_conflict_is_not_retried_unless_it_says_so() -> None:
    assert Conflict("archived").hints.should_retry is False
    assert Conflict("racing", should_retry=True).hints.should_retry is True


def test_an_operator_error_is_one_line_of_problem_and_fix() -> None:
    assert str(OperatorError("port 7700 is in use", "stop it or pass --port")) == (
        "port 7700 is in use: stop it or pass --port"
    )
