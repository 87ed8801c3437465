"""When what fails is left alone, and when it is tried again."""

from intramuros.control.store.breaker import FIRST_S, LONGEST_S, Breaker


def test_what_was_never_tried_is_tried_first() -> None:
    breaker = Breaker()
    assert not breaker.closed
    assert breaker.due(0.0)
    assert breaker.works()
    assert breaker.closed


def test_one_tries_at_a_time() -> None:
    breaker = Breaker()
    assert breaker.due(0.0)
    assert not breaker.due(0.0)


def test_nobody_tries_what_works() -> None:
    breaker = Breaker(closed=True)
    assert not breaker.due(100.0)
    assert not breaker.works()  # no news


def test_a_failure_opens_it_and_is_news_once() -> None:
    breaker = Breaker(closed=True)
    assert breaker.fails(10.0)
    assert not breaker.closed
    assert not breaker.due(10.0 + FIRST_S / 2)
    assert breaker.due(10.0 + FIRST_S)
    assert not breaker.fails(10.0 + FIRST_S)


def test_each_failed_attempt_doubles_the_pause_up_to_a_limit() -> None:
    breaker = Breaker(closed=True)
    now_s, pauses = 0.0, []
    breaker.fails(now_s)
    for _ in range(12):
        pauses.append(breaker.due_s - now_s)
        now_s = breaker.due_s
        assert breaker.due(now_s)
        breaker.fails(now_s)
    assert pauses[:4] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S]
    assert pauses[-1] == LONGEST_S


def test_failures_that_were_under_way_when_it_opened_count_once() -> None:
    breaker = Breaker(closed=True)
    assert breaker.fails(10.0)
    for _ in range(20):
        assert not breaker.fails(10.1)
    assert breaker.due_s == 10.0 + FIRST_S


def test_what_a_moment_will_not_mend_is_left_alone_for_long() -> None:
    breaker = Breaker(closed=True)
    breaker.fails(10.0, long=True)
    assert breaker.due_s == 10.0 + LONGEST_S


def test_after_a_success_it_begins_anew() -> None:
    breaker = Breaker()
    for n in range(5):
        breaker.fails(float(n))
        breaker.due(100.0 + n)
    assert breaker.works()
    assert breaker.fails(200.0)
    assert breaker.due_s == 200.0 + FIRST_S
