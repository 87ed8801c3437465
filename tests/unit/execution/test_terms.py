from intramuros.execution.terms import Outcome, Terms


def test_without_an_address_nothing_of_ours_is_asked_for() -> None:
    assert Terms(1.0).server.base_url == ""
    assert Terms(1.0).memory is None
    assert Terms(1.0).station is None


def test_outcomes_are_few_and_apart() -> None:
    assert len({str(one) for one in Outcome}) == len(Outcome) == 8
