import time

import pytest

from intramuros.control.metering.calls import Call, Calls, sort_of
from intramuros.control.metering.groups import Groups
from intramuros.control.metering.rates import Key, Rates
from intramuros.kernel.errors import RateLimited
from intramuros.kernel.timing import ManualClock


@pytest.mark.parametrize(
    ("method", "route", "sort"),
    [
        ("POST", "/v1/agents", "create"),
        ("POST", "/v1/sessions", "create"),
        ("POST", "/v1/environments", "create"),
        ("POST", "/v1/vaults/{vault_id}/credentials", "create"),
        ("POST", "/v1/memory_stores/{memory_store_id}/memories", "create"),
        ("GET", "/v1/agents", "read"),
        ("GET", "/v1/sessions/{session_id}/events/stream", "read"),
        ("POST", "/v1/agents/{agent_id}", None),
        ("POST", "/v1/sessions/{session_id}/events", None),
        ("POST", "/v1/agents/{agent_id}/archive", None),
        ("DELETE", "/v1/sessions/{session_id}", None),
        ("POST", "/v1/files", "files"),
        ("DELETE", "/v1/files/{file_id}", "files"),
        ("GET", "/v1/skills/{skill_id}/versions", "skills"),
        ("GET", "/v1/filesystem", "read"),
    ],
)
def test_c1_27_what_counts_as_what(method: str, route: str, sort: str | None) -> None:
    assert sort_of(method, route, managed=True) == sort
    if sort in ("create", "read"):
        assert sort_of(method, route, managed=False) is None


def test_c1_27_R031_creations_and_reads_have_limits_of_their_own(
    clock: ManualClock, groups: Groups
) -> None:
    calls = Calls(clock, Rates(clock, groups), 300, 1200)
    for n in range(300):
        told = calls.admit(Call("create", f"wrkspc_{n % 3}"))
    assert told == {
        "anthropic-ratelimit-requests-limit": "300",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2026-01-01T00:01:00Z",
    }
    with pytest.raises(RateLimited, match="300 create calls per minute") as refused:
        calls.admit(Call("create", "wrkspc_new"))
    assert refused.value.hints.retry_after_s == 1
    for _ in range(1200):
        calls.admit(Call("read", "w"))
    with pytest.raises(RateLimited, match="1,200 read calls per minute"):
        calls.admit(Call("read", "w"))
    clock.advance(1)
    for _ in range(5):
        calls.admit(Call("create", "w"))
    with pytest.raises(RateLimited):
        calls.admit(Call("create", "w"))


def test_without_limits_everything_is_let_in(clock: ManualClock, groups: Groups) -> None:
    calls = Calls(clock, Rates(clock, groups), 0, 0)
    for _ in range(2000):
        assert calls.admit(Call("create", "w")) == {}
        assert calls.admit(Call("files", "w")) == {}


def test_files_and_skills_are_limited_by_their_groups(clock: ManualClock, groups: Groups) -> None:
    rates = Rates(clock, groups)
    calls = Calls(clock, rates, 0, 0)
    rates.override({Key("w", groups.of_type("files").id, "requests_per_minute"): 1})
    told = calls.admit(Call("files", "w"))
    assert told["anthropic-ratelimit-requests-limit"] == "1"
    with pytest.raises(RateLimited, match="for files"):
        calls.admit(Call("files", "w"))
    calls.admit(Call("skills", "w"))
    calls.admit(Call("files", "other"))


def test_a_call_costs_less_than_fifty_microseconds(clock: ManualClock, groups: Groups) -> None:
    rates = Rates(clock, groups)
    rates.override({Key("w", groups.of_type("files").id, "requests_per_minute"): 10**9})
    calls = Calls(clock, rates, 10**9, 10**9)
    for call in (Call("create", "w"), Call("files", "w")):
        best = min(_timed(calls, call) for _ in range(50))
        assert best < 50e-6


def _timed(calls: Calls, call: Call) -> float:
    start = time.perf_counter()
    for _ in range(200):
        calls.admit(call)
    return (time.perf_counter() - start) / 200


def test_calls_that_another_process_let_in_count_here(clock: ManualClock, groups: Groups) -> None:
    calls = Calls(clock, Rates(clock, groups), 60, 0)
    told: list[object] = []
    calls.share(lambda *taken: told.append(taken))
    calls.admit(Call("create", "w"))
    calls.admit(Call("read", "w"))
    assert told == [(("create",), 1, 1.0)]
    assert calls.charge(("create",), 59)
    with pytest.raises(RateLimited):
        calls.admit(Call("create", "w"))
    assert not calls.charge(("read",), 1), "nothing limits those"
    assert not calls.charge(("create", "more"), 1)
