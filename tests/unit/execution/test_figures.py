from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intramuros.execution.client import Away, Beat, LeaseLost, Work
from intramuros.execution.figures import OTHER, PREFIX, Figures
from intramuros.kernel.timing import ManualClock

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def figures() -> Figures:
    return Figures(["bash", "lookup"], ManualClock(NOW))


def value(told: Figures, name: str, **labels: str) -> float | None:
    return told.registry.get_sample_value(f"{PREFIX}{name}", labels)


def labels_of(told: Figures) -> set[str]:
    return {
        text
        for family in told.registry.collect()
        for sample in family.samples
        for name, text in sample.labels.items()
        if name != "le"
    }


def test_results_are_counted_by_tool_and_outcome() -> None:
    told = figures()
    for is_error in (False, False, True):
        told.recorded(
            "tool.result",
            {"tool": "bash", "rule": "run", "is_error": is_error, "ms": 30, "masked": 2},
            written=True,
        )
    told.recorded("tool.result", {"tool": "lookup", "rule": "journal", "ms": 0}, written=True)
    told.recorded("tool.abandoned", {"tool": "bash"}, written=True)
    told.recorded("tool.refused", {"tool": "bash"}, written=True)
    assert value(told, "tool_results_total", tool="bash", outcome="ok") == 2
    assert value(told, "tool_results_total", tool="bash", outcome="error") == 1
    assert value(told, "tool_results_total", tool="lookup", outcome="journal") == 1
    assert value(told, "tool_results_total", tool="bash", outcome="abandoned") == 1
    assert value(told, "tool_results_total", tool="bash", outcome="refused") == 1
    assert value(told, "tool_seconds_count", tool="bash", outcome="ok") == 2
    assert value(told, "tool_seconds_sum", tool="bash", outcome="ok") == pytest.approx(0.06)
    assert value(told, "outflow_masked_total") == 6
    assert value(told, "tool_seconds_count", tool="lookup", outcome="journal") is None


def test_what_was_not_recorded_did_not_happen() -> None:
    told = figures()
    told.recorded("tool.result", {"tool": "bash", "rule": "run", "ms": 1}, written=False)
    assert value(told, "records_total", outcome="failed") == 1
    assert value(told, "tool_results_total", tool="bash", outcome="ok") is None


def test_egress_is_counted_by_verdict_rule_and_end() -> None:
    told = figures()
    told.recorded("egress.request", {"verdict": "allow", "rule": "allowed_hosts"}, written=True)
    told.recorded("egress.request", {"verdict": "deny", "rule": "worker_denies"}, written=True)
    for ended in ("complete", "unreachable"):
        told.recorded(
            "egress.end",
            {"ended": ended, "request_bytes": 10, "response_bytes": 90, "scrubbed": 1, "ms": 20},
            written=True,
        )
    assert value(told, "egress_requests_total", verdict="allow", rule="allowed_hosts") == 1
    assert value(told, "egress_requests_total", verdict="deny", rule="worker_denies") == 1
    assert value(told, "egress_bytes_total", direction="out") == 20
    assert value(told, "egress_bytes_total", direction="in") == 180
    assert value(told, "egress_scrubbed_total") == 2
    assert value(told, "egress_ended_total", ended="unreachable") == 1
    assert value(told, "egress_seconds_count", ended="well") == 1
    assert value(told, "egress_seconds_count", ended="badly") == 1


@given(words=st.lists(st.text(max_size=60), max_size=300))
def test_no_word_of_others_becomes_a_label_and_labels_are_few(words: list[str]) -> None:
    told = figures()
    for word in [*words, *(f"{'x' * (n % 39)}_{chr(97 + n // 39)}" for n in range(300))]:
        told.recorded("egress.request", {"verdict": "deny", "rule": word}, written=True)
        told.recorded("tool.result", {"tool": word, "rule": word, "ms": 0}, written=True)
    found = labels_of(told)
    assert len(found) < 120
    assert all(text.replace("_", "").isalpha() and text.islower() for text in found)
    assert OTHER in found


def test_decisions_and_claims_are_counted() -> None:
    told = figures()
    for decision in ("pass", "mask", "mask"):
        told.checked(decision)
    told.claimed(0.02)
    assert value(told, "outflow_checked_total", decision="mask") == 2
    assert value(told, "claim_seconds_count") == 1


class Queue:
    environment_id: str | None = "env_1"

    def __init__(self, *answers: Work | Exception | None) -> None:
        self.answers = list(answers)

    async def poll(self, reclaim_older_than_ms: int | None) -> Work | None:
        assert reclaim_older_than_ms == 7
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.anyio
async def test_polls_are_counted_and_how_long_work_had_waited() -> None:
    told = figures()
    work = Work("w", "env_1", "session", "s", queued_at=NOW - timedelta(seconds=3))
    ahead = Work("w", "env_1", "session", "s", queued_at=NOW + timedelta(seconds=3))
    queue = told.queue(Queue(work, ahead, None, Away("x")))
    assert queue.environment_id == "env_1"
    assert [await queue.poll(7) for _ in range(3)] == [work, ahead, None]
    with pytest.raises(Away):
        await queue.poll(7)
    assert value(told, "polls_total", outcome="work") == 2
    assert value(told, "polls_total", outcome="empty") == 1
    assert value(told, "polls_total", outcome="failed") == 1
    assert value(told, "queue_age_seconds_sum") == 3


class Client:
    def __init__(self, *answers: Beat | Exception) -> None:
        self.answers = list(answers)

    async def heartbeat(self, expected: str, *, ttl_s: int | None = None) -> Beat:
        assert (expected, ttl_s) == ("last", 20)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.anyio
async def test_heartbeats_are_counted() -> None:
    told = figures()
    client: Any = Client(Beat("t", True, "active", 30.0), Away("x"), LeaseLost("x"))
    heart = told.heart(client)
    assert (await heart.heartbeat("last", ttl_s=20)).ttl_s == 30.0
    for error in (Away, LeaseLost):
        with pytest.raises(error):
            await heart.heartbeat("last", ttl_s=20)
    for outcome in ("sent", "missed", "lost"):
        assert value(told, "heartbeats_total", outcome=outcome) == 1
