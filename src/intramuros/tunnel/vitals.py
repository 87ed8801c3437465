"""Health and figures of an edge or a gateway, on loopback: /healthz, /readyz and /metrics.

Figures are counted where things happen and read when somebody asks. Labels hold words of ours
alone, never a tunnel, a host or a session, so that there are few and none tells a secret.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from intramuros.kernel.errors import OperatorError

_ANSWER_S: Final = 5.0
_MAX_HEAD: Final = 4096

Answer = Callable[[str], tuple[int, str, bytes]]
"""Path → status, content type and body."""


class Figures(Collector):
    """What one program counts.

    Args:
        prefix: of every name.
        counters: name → (what it counts, the label that tells its parts apart).
    """

    def __init__(self, prefix: str, counters: Mapping[str, tuple[str, str]]) -> None:
        self._prefix = prefix
        self._counters = counters
        self._counts: Counter[tuple[str, str]] = Counter()
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        """Name → (what it is, what reads it now)."""

    def count(self, name: str, label: str, by: float = 1) -> None:
        """Add to a counter; ``label`` is one of few words."""
        assert name in self._counters
        self._counts[name, label] += by  # type: ignore[assignment]  # seconds are no whole numbers

    def value(self, name: str, label: str) -> float:
        """Return what was counted so far."""
        return self._counts[name, label]

    def collect(self) -> Iterator[Metric]:
        """Give every figure as it is now."""
        for name, (about, label) in self._counters.items():
            family = CounterMetricFamily(f"{self._prefix}_{name}", about, labels=[label])
            for (counted, value), count in sorted(self._counts.items()):
                if counted == name:
                    family.add_metric([value], count)
            yield family
        for name, (about, read) in self.gauges.items():
            yield GaugeMetricFamily(f"{self._prefix}_{name}", about, value=read())

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)


def edge_figures() -> Figures:
    """Return what an edge counts."""
    return Figures(
        "intramuros_edge",
        {
            "links": ("Links of gateways, by outcome", "outcome"),
            "dials": ("Dials of the control plane, by outcome", "outcome"),
            "relayed_bytes": ("Bytes of ciphertext relayed", "direction"),
            "turned_away": ("Connections that found no place", "reason"),
        },
    )


def gateway_figures() -> Figures:
    """Return what a gateway counts."""
    return Figures(
        "intramuros_gateway",
        {
            "links": ("Links to edges, by outcome of the dial", "outcome"),
            "requests": ("Requests passed on, by how they ended", "ended"),
            "request_seconds": ("Time that these took together", "ended"),
            "response_bytes": ("Bytes of their answers", "ended"),
            "refused": ("Requests refused before they were passed on, by reason", "reason"),
            "handshakes_failed": ("Inner TLS handshakes that failed", "reason"),
            "reloads": ("Changed configuration files, by what became of them", "outcome"),
        },
    )


def answering(figures: Figures, is_ready: Callable[[], bool], body: Callable[[], str]) -> Answer:
    """Return what answers: alive always, ready if it is, and the figures."""

    def answer(path: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, figures.text()
        text = f"{body()}\n".encode()
        if path == "/healthz" or (path == "/readyz" and is_ready()):
            return 200, "application/json", text
        return 503 if path == "/readyz" else 404, "application/json", text

    return answer


async def serve_vitals(
    answer: Answer, port: int, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Answer GET requests on loopback until cancelled; starts with the port.

    Raises:
        OperatorError: the port is taken.
    """

    async def visit(stream: SocketStream) -> None:
        async with stream:
            head = b""
            with anyio.move_on_after(_ANSWER_S):
                try:
                    while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD:
                        head += await stream.receive(_MAX_HEAD)
                    await stream.send(_response(answer, head))
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return

    try:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    except OSError as error:
        raise OperatorError(
            f"cannot listen on 127.0.0.1:{port} ({error.strerror or error})",
            "choose another health port",
        ) from error
    async with listener:
        task_status.started(listener.extra(SocketAttribute.local_port))  # noqa: S610  not Django's
        await listener.serve(visit)


_REASONS: Final = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}


def _response(answer: Answer, head: bytes) -> bytes:
    words = head.split(b" ", 2)
    path = words[1].decode("latin-1").partition("?")[0] if len(words) == 3 else ""
    status, kind, body = answer(path)
    lines = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {kind}\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return lines.encode() + body
