"""Build an edge and serve it: the composition root of ``intramuros edge``."""

import resource
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop, settle
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, SystemClock
from intramuros.kernel.wire import serve_tls
from intramuros.protocol.dial import DIAL_ALPN, LINK_ALPN
from intramuros.tunnel.control_keys import ControlKeys
from intramuros.tunnel.edge import Edge, EdgeParts
from intramuros.tunnel.ledger import Ledger
from intramuros.tunnel.linktable import LinkTable
from intramuros.tunnel.pace import Pace
from intramuros.tunnel.recorder import Recorder
from intramuros.tunnel.vitals import Answer, answering, serve_vitals

log = logger("edge")

# Open files besides connections: the record, sockets that listen, and who is turned away.
SPARE_FILES: Final = 64


@dataclass(frozen=True)
class EdgeSettings:
    """What an edge needs to know."""

    cert_file: Path
    """Certificate chain that gateways and the control plane see, PEM."""
    key_file: Path
    """Its private key, PEM."""
    control_key_file: Path
    """The control plane's Ed25519 public key, PEM."""
    audit_file: Path
    """Where the hash-chained record of links and dials goes."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 7844
    """TCP port; 0 takes any free one."""
    health_port: int | None = None
    """Loopback port for /healthz, /readyz and /metrics; none when absent."""
    record_dir: Path | None = None
    """For verification: write every relayed byte to files here."""
    drain_s: float = 30.0
    """How long open streams may finish after a stop."""
    max_connections: int = 20_000
    """Connections of gateways and of the control plane together; further ones are cut."""
    max_links_per_tunnel: int = 32
    """Links that the gateways of one tunnel may keep; further ones are refused."""
    max_streams_per_tunnel: int = 10_000
    """Dials of one tunnel under way at once; further ones are refused."""
    max_bytes_per_s_per_tunnel: int = 0
    """Bytes a second that one tunnel may move, both directions together; 0 for no limit."""


@dataclass(frozen=True)
class Listening:
    """Where an edge listens."""

    host: str
    port: int
    health_port: int | None


async def serve_edge(
    settings: EdgeSettings,
    *,
    on_ready: Callable[[Listening], None] | None = None,
    stop: Stop | None = None,
    clock: Clock | None = None,
) -> None:
    """Serve until cancelled, or until ``stop`` is requested and the streams have ended.

    Args:
        settings: what to serve.
        on_ready: called once, when connections are accepted.
        stop: asks for a drain.
        clock: where time comes from.

    Raises:
        OperatorError: a file cannot be used, or a port is taken.
    """
    context = _server_context(settings)
    recorder = Recorder(settings.record_dir) if settings.record_dir else None
    clock = clock or SystemClock()
    keys = ControlKeys(settings.control_key_file, clock)
    ledger = Ledger(settings.audit_file, clock)
    table = LinkTable(settings.max_links_per_tunnel, settings.max_streams_per_tunnel)
    most = _that_fit(settings.max_connections)
    pace = Pace(clock, settings.max_streams_per_tunnel, settings.max_bytes_per_s_per_tunnel)
    parts = EdgeParts(keys, ledger, clock, recorder, max_connections=most, pace=pace)
    edge = Edge(parts, table)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(ledger.run)
            group.start_soon(edge.keep_to_keys)
            port: int = await group.start(_serve, edge, settings, context)
            health_port = None
            if settings.health_port is not None:
                health_port = await group.start(serve_vitals, _vitals(edge), settings.health_port)
            log.info("edge_ready", host=settings.host, port=port, recording=recorder is not None)
            settle()
            if on_ready is not None:
                on_ready(Listening(settings.host, port, health_port))
            if stop is None:
                await anyio.sleep_forever()
            else:
                await stop.wait()
                with anyio.move_on_after(settings.drain_s):
                    await edge.drain()
            group.cancel_scope.cancel()
    except ExceptionGroup as group_error:
        # A taken port is the operator's to mend; the task group around it is not his concern.
        operator_errors = group_error.subgroup(OperatorError)
        if operator_errors is not None:
            raise _first(operator_errors) from None
        raise
    finally:
        ledger.close()


def _that_fit(wanted: int) -> int:
    """Return how many connections the process may have, so that a refusal still has a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    fitting = min(wanted, max(1, soft - SPARE_FILES)) if soft != resource.RLIM_INFINITY else wanted
    if fitting < wanted:
        log.warning("fewer_connections", wanted=wanted, fitting=fitting, open_files=soft)
    return fitting


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _serve(
    edge: Edge,
    settings: EdgeSettings,
    context: ssl.SSLContext,
    *,
    task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    await serve_tls(
        edge.handle,
        host=settings.host,
        port=settings.port,
        context=context,
        task_status=task_status,
    )


def _server_context(settings: EdgeSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([LINK_ALPN, DIAL_ALPN, "http/1.1"])
    try:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    except OSError as error:
        detail = getattr(error, "reason", None) or error.strerror or str(error)
        raise OperatorError(
            f"the edge's certificate {settings.cert_file} and key {settings.key_file} do not load"
            f" ({detail})",
            "give a PEM chain and its own private key, readable by this user",
        ) from error
    return context


def _vitals(edge: Edge) -> Answer:
    edge.figures.gauges |= {
        "links_now": ("Links of gateways now", lambda: edge.table.link_count),
        "connections_now": ("Connections now", lambda: edge.connections),
        "dials_now": ("Dials under way", lambda: edge.dials),
    }
    return answering(
        edge.figures,
        lambda: edge.table.link_count > 0,
        lambda: f'{{"links":{edge.table.link_count},"connections":{edge.connections}}}',
    )
