"""Health and figures of one worker, for whoever is on this machine: ``--metrics-listen``.

``/healthz`` answers while the worker runs, ``/readyz`` while it takes work, ``/metrics`` gives
figures as Prometheus reads them. Labels hold names of ours alone, never ids, so that there are few.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from intramuros.execution.figures import PREFIX, Figures
from intramuros.execution.hands import Hands
from intramuros.execution.listener import Asked, Told, listening
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger

log = logger("vitals")

_TEXT: Final = "text/plain; charset=utf-8"


@dataclass
class Tally:
    """What was counted since the start."""

    claimed: int = 0
    serving: int = 0
    """Items served now."""
    ended: dict[str, int] = field(default_factory=dict)
    """Items by how serving them ended."""
    ready: bool = False
    """Whether the control plane has answered a poll."""

    def begin(self) -> None:
        """Count the start of an item."""
        self.claimed += 1
        self.serving += 1

    def end(self, outcome: str) -> None:
        """Count the end of an item."""
        self.serving -= 1
        self.ended[outcome] = self.ended.get(outcome, 0) + 1


@dataclass(frozen=True)
class Sources:
    """Where figures are read when somebody asks."""

    tally: Tally
    hands: Hands
    crowded: Callable[[], str | None]
    stop: Stop
    figures: Figures = field(default_factory=Figures)
    about: Mapping[str, str] = field(default_factory=dict)
    """What this worker is: names of ours, for the labels of ``info``."""


class _Figures(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Give every figure as it is now."""
        sources = self._sources
        tally = sources.tally
        yield _gauge("ready", "1 while work is taken", int(_refusal(sources) is None))
        yield _gauge("items_served", "Work items served now", tally.serving)
        yield _gauge("guests", "People in sandboxes by SSH now", len(sources.hands.guests.all()))
        crowded = int(sources.crowded() is not None)
        yield _gauge("crowded", "1 while the host holds no other sandbox", crowded)
        yield CounterMetricFamily(f"{PREFIX}claims", "Items claimed", value=tally.claimed)
        ended = CounterMetricFamily(f"{PREFIX}items_ended", "Items ended", labels=["outcome"])
        for outcome, count in sorted(tally.ended.items()):
            ended.add_metric([outcome], count)
        yield ended
        waiting, wanted = sources.hands.spares()
        yield _gauge("pool_waiting", "Sandboxes that wait for sessions now", waiting)
        yield _gauge("pool_wanted", "Sandboxes that should wait", wanted)
        states = GaugeMetricFamily(f"{PREFIX}sandboxes", "Sandboxes now", labels=["state"])
        for state, count in sorted(sources.hands.counts().items()):
            states.add_metric([state], count)
        yield states
        hits, misses = sources.hands.firsts()
        first = CounterMetricFamily(f"{PREFIX}first_calls", "By sandbox", labels=["sandbox"])
        first.add_metric(["waiting"], hits)
        first.add_metric(["made"], misses)
        yield first
        yield InfoMetricFamily(f"{PREFIX.rstrip('_')}", "This worker", value=dict(sources.about))


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}{name}", about, value=value)


def _refusal(sources: Sources) -> str | None:
    """Return why no work is taken now."""
    if sources.stop.requested:
        return "draining"
    if not sources.tally.ready:
        return "the control plane has not answered yet"
    return sources.crowded()


class Vitals:
    """Answers questions about one worker at one address of this machine."""

    def __init__(self, address: tuple[str, int], sources: Sources) -> None:
        self._address = address
        self._sources = sources
        self._registry = sources.figures.registry
        self._registry.register(_Figures(sources))
        ProcessCollector(registry=self._registry)

    def answer(self, method: str, target: str) -> tuple[int, str, bytes]:
        """Return status, content type and body."""
        path = target.partition("?")[0]
        if method not in ("GET", "HEAD"):
            return 405, _TEXT, b"only GET\n"
        if path == "/healthz":
            return 200, _TEXT, b"ok\n"
        if path == "/readyz":
            why = _refusal(self._sources)
            return (200, _TEXT, b"ok\n") if why is None else (503, _TEXT, f"{why}\n".encode())
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        return 404, _TEXT, b"try /healthz, /readyz or /metrics\n"

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[str, int]]:
        """Answer until the block ends; gives where.

        Raises:
            OperatorError: it cannot listen there.
        """
        async with listening(self._address, "--metrics-listen", self._told) as bound:
            log.info("vitals_listen", at=str(bound))
            yield bound

    def _told(self, asked: Asked) -> Told:
        status, kind, body = self.answer(asked.method, asked.target)
        return Told(status, body, kind)
