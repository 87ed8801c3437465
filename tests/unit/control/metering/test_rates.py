import contextlib
from pathlib import Path

import pytest

from intramuros.control.metering import rates as module
from intramuros.control.metering.groups import Group, Groups, load_groups
from intramuros.control.metering.rates import MAX_PROMISE_S, PROMISE_S, Key, Rates
from intramuros.control.model.catalogue import Catalogue
from intramuros.control.model.cost import Tokens
from intramuros.kernel.errors import RateLimited
from intramuros.kernel.timing import ManualClock

MODEL = "claude-opus-5"


@pytest.fixture
def limited(tmp_path: Path, known: Catalogue) -> Groups:
    file = tmp_path / "limits.yaml"
    file.write_text(
        "groups:\n"
        f"  - models: [{MODEL}]\n"
        "    limits: {requests_per_minute: 6, input_tokens_per_minute_cache_aware: 1000,\n"
        "             output_tokens_per_minute: 500}\n"
    )
    return load_groups(known, "org", file)


@pytest.fixture
def rates(clock: ManualClock, limited: Groups) -> Rates:
    return Rates(clock, limited)


@pytest.fixture
def group(limited: Groups) -> Group:
    return limited.of_model(MODEL)


def wait_of(rates: Rates, group: Group, tokens: int = 0, who: str | None = None) -> float | None:
    with pytest.raises(RateLimited) as refused:
        rates.admit("w", group, tokens, promise_to=who)
    return refused.value.hints.retry_after_s


def test_what_nobody_limits_is_let_in(clock: ManualClock, groups: Groups) -> None:
    rates, group = Rates(clock, groups), groups.of_model(MODEL)
    assert not rates.limited("w", group)
    assert rates.admit("w", group, 10**9).taken == []
    assert rates.headers("w", group) == {}


def test_R371_the_lower_of_workspace_and_organization_is_enforced(
    rates: Rates, group: Group, clock: ManualClock
) -> None:
    rates.override({Key("low", group.id, "requests_per_minute"): 2})
    rates.admit("low", group)
    rates.admit("low", group)
    with pytest.raises(RateLimited, match="this workspace's rate limit of 2 requests per minute"):
        rates.admit("low", group)
    for _ in range(4):
        rates.admit("other", group)  # what the organization has left
    with pytest.raises(RateLimited, match="the organization's rate limit of 6 requests"):
        rates.admit("other", group)
    # A value above the organization's is kept, and the organization's holds.
    rates.override({Key("low", group.id, "requests_per_minute"): 100})
    with pytest.raises(RateLimited, match="the organization's"):
        rates.admit("low", group)
    clock.advance(60)
    for _ in range(6):
        rates.admit("low", group)
    with pytest.raises(RateLimited):
        rates.admit("low", group)


def test_a_refused_request_takes_nothing(rates: Rates, group: Group) -> None:
    rates.override({Key("w", group.id, "requests_per_minute"): 1})
    rates.admit("w", group)
    for _ in range(50):
        wait_of(rates, group)
    assert rates.headers("other", group)["anthropic-ratelimit-requests-remaining"] == "5"


def test_a_limit_below_what_was_used_refuses_until_there_is_room(
    rates: Rates, group: Group, clock: ManualClock
) -> None:
    key = Key("w", group.id, "requests_per_minute")
    rates.override({key: 6})
    for _ in range(5):
        rates.admit("w", group)
    rates.override({key: 3})
    assert wait_of(rates, group) == 20
    clock.advance(20)
    rates.admit("w", group)
    rates.override({})
    assert rates.headers("w", group)["anthropic-ratelimit-requests-limit"] == "6"


def test_input_is_estimated_and_then_set_right(rates: Rates, group: Group) -> None:
    ticket = rates.admit("w", group, 900)
    assert wait_of(rates, group, 900) == 48
    rates.settle(ticket, Tokens(input=100, output=10, cache_read=10**6, cache_write_5m=50))
    rates.admit("w", group, 850)
    wait_of(rates, group)


def test_a_request_without_an_answer_gives_its_tokens_back(rates: Rates, group: Group) -> None:
    ticket = rates.admit("w", group, 1000)
    rates.settle(ticket, None)
    rates.settle(ticket, None)
    rates.admit("w", group, 1000)


def test_output_counts_when_it_is_there_and_is_owed(
    rates: Rates, group: Group, clock: ManualClock
) -> None:
    rates.settle(rates.admit("w", group), Tokens(output=1500))
    assert wait_of(rates, group) == 121
    clock.advance(121)
    rates.admit("w", group)


def test_fast_requests_have_limits_of_their_own(rates: Rates, group: Group) -> None:
    rates.override({Key("w", group.id, "fast_itpmca"): 10})
    rates.settle(rates.admit("w", group, 1000), Tokens(input=1000))
    rates.admit("w", group, 10, fast=True)  # does not need the standard tokens
    with pytest.raises(RateLimited, match="at speed fast"):
        rates.admit("w", group, 1, fast=True)


def test_who_was_told_to_come_back_is_let_in_before_later_ones(
    rates: Rates, group: Group, clock: ManualClock
) -> None:
    for _ in range(6):
        rates.admit("w", group)
    assert [wait_of(rates, group, who=f"sesn_{n}") for n in range(3)] == [10, 20, 30]
    assert wait_of(rates, group, who="sesn_0") == 10  # asked again too early
    clock.advance(10)
    assert wait_of(rates, group, who="sesn_9") == 30
    rates.admit("w", group, promise_to="sesn_0")
    assert wait_of(rates, group) == 40
    clock.advance(10)
    rates.admit("w", group, promise_to="sesn_1")


def test_promises_lapse_and_reach_only_so_far(
    rates: Rates, group: Group, clock: ManualClock
) -> None:
    for _ in range(6):
        rates.admit("w", group)
    waits = [wait_of(rates, group, who=f"sesn_{n}") for n in range(70)]
    assert max(waits) == MAX_PROMISE_S + 10
    assert waits[-1] == waits[-2]  # beyond that nobody queues up
    clock.advance(MAX_PROMISE_S + PROMISE_S + 61)
    rates.admit("w", group, promise_to="sesn_0")  # a new request, not the old promise
    assert rates.headers("w", group)["anthropic-ratelimit-requests-remaining"] == "5"


def test_headers_tell_of_the_tightest_limit(rates: Rates, group: Group, clock: ManualClock) -> None:
    rates.override({Key("w", group.id, "requests_per_minute"): 4})
    rates.settle(rates.admit("w", group, 600), Tokens(input=600))
    assert rates.headers("w", group) == {
        "anthropic-ratelimit-requests-limit": "4",
        "anthropic-ratelimit-requests-remaining": "3",
        "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:15Z",
        "anthropic-ratelimit-input-tokens-limit": "1000",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": "2026-01-01T00:00:36Z",
        "anthropic-ratelimit-output-tokens-limit": "500",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2026-01-01T00:00:00Z",
    }


def test_promises_that_nobody_comes_for_are_let_go(
    rates: Rates, group: Group, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MANY_PROMISES", 3)
    for n in range(40):
        for _ in range(8):
            with contextlib.suppress(RateLimited):
                rates.admit("w", group, promise_to=f"sesn_{n}_{_}")
        clock.advance(PROMISE_S + 60)
        assert len(rates._promises) <= 2 * 8


def test_what_other_processes_let_in_counts_here_and_is_not_told_again(
    rates: Rates, group: Group, clock: ManualClock
) -> None:
    told: list[tuple[object, ...]] = []
    rates.share(lambda *taken: told.append(taken))
    ticket = rates.admit("w", group, 400)
    rates.settle(ticket, Tokens(input=100, output=50))
    by_limiter = {key.limiter: sum(amount for k, amount, _ in told if k == key) for key, *_ in told}
    assert by_limiter == {
        "requests_per_minute": 1,
        "input_tokens_per_minute_cache_aware": 100,
        "output_tokens_per_minute": 50,
    }
    assert {flow for _, _, flow in told} == {6 / 60, 1000 / 60, 500 / 60}
    count = len(told)
    key = Key("organization", group.id, "requests_per_minute")
    assert rates.charge(tuple(key), 5)
    assert wait_of(rates, group) == 10
    assert not rates.charge(("somebody", group.id, "requests_per_minute"), 1)
    assert not rates.charge(("organization",), 1)
    assert len(told) == count
