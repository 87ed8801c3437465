"""What a worker counts while it works, for ``/metrics``.

Most of it is read off the worker's own record, since what matters is recorded anyway; the rest is
told by what stands around the queue, the heartbeat and the gate. Labels come from lists that are
closed when the worker starts: no id, no host, no path and no text of a session ever is one.
"""

import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Final

from prometheus_client import Counter, Histogram
from prometheus_client.registry import CollectorRegistry

from intramuros.execution.client import Beat, ItemClient, LeaseLost, Work
from intramuros.execution.poll import Queue
from intramuros.kernel.timing import Clock, SystemClock

PREFIX: Final = "intramuros_worker_"
OTHER: Final = "other"
# In seconds: a tool takes a millisecond or as long as its deadline lets it.
_TOOL_S: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 150)
_EGRESS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_AGE_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800)
_CLAIM_S: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
_ENDED_WELL: Final = frozenset({"complete", "done"})
# Rules and ends are words of our own code, some fifty; more than that are something else.
_WORD: Final = re.compile(r"[a-z][a-z_]{0,39}")
_MAX_WORDS: Final = 100


class Figures:
    """The counters of one worker.

    Args:
        tools: names of the tools that it serves.
        clock: tells how old an item is when it is claimed.
    """

    def __init__(self, tools: Collection[str] = (), clock: Clock | None = None) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._clock = clock or SystemClock()
        self._tools = frozenset(tools)
        self._words: set[str] = set()
        self._polls = self._counter("polls", "Polls, by what came of them", "outcome")
        self._age = self._histogram("queue_age_seconds", "Age of items when claimed", _AGE_S)
        self._claim = self._histogram("claim_seconds", "From poll to granted claim", _CLAIM_S)
        self._beats = self._counter("heartbeats", "Heartbeats of leases", "outcome")
        self._results = self._counter("tool_results", "Results of tool calls", "tool", "outcome")
        self._tool = self._histogram(
            "tool_seconds", "What running a call and searching its result took", _TOOL_S,
            "tool", "outcome",
        )  # fmt: skip
        self._asked = self._counter("egress_requests", "Asked by sandboxes", "verdict", "rule")
        self._ended = self._counter("egress_ended", "Requests that went out, by end", "ended")
        self._bytes = self._counter("egress_bytes", "Bodies, as hosts saw them", "direction")
        self._scrubbed = self._counter("egress_scrubbed", "Secrets taken out of hosts' answers")
        self._egress = self._histogram("egress_seconds", "Of a request", _EGRESS_S, "ended")
        self._checked = self._counter("outflow_checked", "What left or did not", "decision")
        self._masked = self._counter("outflow_masked", "Places masked in results of calls")
        self._web = self._counter("web_results", "Answers of web calls", "outcome")
        self._records = self._counter("records", "Audit records", "outcome")
        self._kinds: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "tool.result": self._tool_result,
            "tool.abandoned": lambda told: self._tool_other(told, "abandoned"),
            "tool.refused": lambda told: self._tool_other(told, "refused"),
            "egress.request": self._egress_request,
            "egress.end": self._egress_end,
            "web.result": lambda told: self._web.labels(_fault(told)).inc(),
            "web.abandoned": lambda _told: self._web.labels("abandoned").inc(),
        }

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}{name}", about, labels, registry=self.registry)

    def _histogram(
        self, name: str, about: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"{PREFIX}{name}", about, labels, registry=self.registry, buckets=buckets)

    # What is told

    def recorded(self, kind: str, fields: Mapping[str, Any], *, written: bool) -> None:
        """Count what stands in the record now, or should have and does not."""
        self._records.labels("written" if written else "failed").inc()
        known = self._kinds.get(kind) if written else None
        if known is not None:
            known(fields)

    def checked(self, decision: str) -> None:
        """Count a text or file that was to leave: pass, mask, ask, block or unsearched."""
        self._checked.labels(decision).inc()

    def claimed(self, seconds: float) -> None:
        """Count a claim that the control plane granted, and how long that took."""
        self._claim.observe(seconds)

    def queue(self, queue: Queue) -> Queue:
        """Return a queue whose polls are counted."""
        return _CountedQueue(queue, self)

    def heart(self, client: ItemClient) -> "CountedHeart":
        """Return an item's client whose heartbeats are counted."""
        return CountedHeart(client, self)

    def polled(self, outcome: str, queued_at: datetime | None = None) -> None:
        """Count a poll: work, empty or failed."""
        self._polls.labels(outcome).inc()
        if queued_at is not None:
            # Clocks of two machines differ.
            self._age.observe(max(0.0, (self._clock.now() - queued_at).total_seconds()))

    def beaten(self, outcome: str) -> None:
        """Count a heartbeat: sent, missed or lost."""
        self._beats.labels(outcome).inc()

    # How it is read

    def _tool_result(self, told: Mapping[str, Any]) -> None:
        rule = told.get("rule")
        tool = self._name(told)
        self._masked.inc(told.get("masked", 0))
        if rule != "run":
            known = rule if rule in ("journal", "interrupted", "asked") else OTHER
            self._results.labels(tool, known).inc()
            return
        outcome = _fault(told)
        self._results.labels(tool, outcome).inc()
        self._tool.labels(tool, outcome).observe(told["ms"] / 1000)

    def _tool_other(self, told: Mapping[str, Any], outcome: str) -> None:
        self._results.labels(self._name(told), outcome).inc()

    def _name(self, told: Mapping[str, Any]) -> str:
        name = told.get("tool")
        return name if name in self._tools else OTHER

    def _egress_request(self, told: Mapping[str, Any]) -> None:
        self._asked.labels(told["verdict"], self._word(told["rule"])).inc()

    def _egress_end(self, told: Mapping[str, Any]) -> None:
        ended = self._word(told["ended"])
        self._ended.labels(ended).inc()
        self._bytes.labels("out").inc(told["request_bytes"])
        self._bytes.labels("in").inc(told["response_bytes"])
        self._scrubbed.inc(told["scrubbed"])
        self._egress.labels("well" if ended in _ENDED_WELL else "badly").observe(told["ms"] / 1000)

    def _word(self, word: str) -> str:
        if word not in self._words:
            if len(self._words) >= _MAX_WORDS or not _WORD.fullmatch(word):
                return OTHER
            self._words.add(word)
        return word


class _CountedQueue:
    def __init__(self, queue: Queue, figures: Figures) -> None:
        self.environment_id = queue.environment_id
        self._queue = queue
        self._figures = figures

    async def poll(self, reclaim_older_than_ms: int | None) -> Work | None:
        """Poll and count it."""
        outcome, queued_at = "failed", None
        try:
            work = await self._queue.poll(reclaim_older_than_ms)
            outcome = "empty" if work is None else "work"
            queued_at = None if work is None else work.queued_at
        finally:
            self._figures.polled(outcome, queued_at)
        return work


class CountedHeart:
    """Sends heartbeats and counts them."""

    def __init__(self, client: ItemClient, figures: Figures) -> None:
        self._client = client
        self._figures = figures

    async def heartbeat(self, expected: str, *, ttl_s: int | None = None) -> Beat:
        """Send one and count it."""
        outcome = "missed"
        try:
            beat = await self._client.heartbeat(expected, ttl_s=ttl_s)
            outcome = "sent"
        except LeaseLost:
            outcome = "lost"
            raise
        finally:
            self._figures.beaten(outcome)
        return beat


def _fault(told: Mapping[str, Any]) -> str:
    return "error" if told.get("is_error") else "ok"
