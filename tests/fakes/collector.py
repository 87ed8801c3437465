"""An OTLP/HTTP collector over TLS on loopback: keeps what it gets, and answers as it is told."""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Got:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def spans(self) -> list[Any]:
        parsed = ExportTraceServiceRequest.FromString(self.body)
        return [s for r in parsed.resource_spans for c in r.scope_spans for s in c.spans]


@dataclass
class Collector:
    """``status`` and what goes with it answer every request; ``pause_s`` holds the answer back."""

    url: str
    ca_pem: str
    got: list[Got] = field(default_factory=list)
    status: int = 200
    location: str | None = None
    pause_s: float = 0.0
    body: bytes = b""

    @property
    def spans(self) -> list[Any]:
        return [span for one in self.got for span in one.spans]


def attributes(span: Any) -> dict[str, Any]:
    """Return a span's attributes as plain values."""
    plain = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        plain[pair.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return plain


@contextmanager
def running_collector() -> Iterator[Collector]:
    authority = trustme.CA()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            collector.got.append(Got(self.path, headers, data))
            time.sleep(collector.pause_s)  # noqa: TID251  how slow it is asked to be
            self.send_response(collector.status)
            if collector.location is not None:
                self.send_header("location", collector.location)
            self.send_header("content-length", str(len(collector.body)))
            self.end_headers()
            self.wfile.write(collector.body)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_args: object) -> None:
            """Clients that leave in the middle are part of the tests."""

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    url = f"https://localhost:{server.server_address[1]}"
    collector = Collector(url, authority.cert_pem.bytes().decode())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
