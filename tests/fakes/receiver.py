"""Somebody who receives webhooks: a TLS server on loopback, on threads of its own.

It answers 200 until told otherwise, and keeps what it was sent.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trustme

Answer = Callable[["Delivery", ssl.SSLSocket], None]


@dataclass(frozen=True)
class Delivery:
    """One request as it came; header names in lower case."""

    target: str
    headers: dict[str, str]
    body: str
    at_s: float = field(default_factory=time.monotonic)


def status(code: int, *headers: str) -> Answer:
    """Answer with a status and no body."""
    lines = [f"HTTP/1.1 {code} X", "content-length: 0", *headers, "", ""]
    return lambda _delivery, sock: sock.sendall("\r\n".join(lines).encode())


class Receiver:
    """Where webhooks arrive."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.ca_file = directory / "receiver-ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}/hooks"
        self.answer: Answer = status(200)
        self.answers: dict[str, Answer] = {}
        self._got: list[Delivery] = []
        self._news = threading.Condition()
        self._threads: list[threading.Thread] = []
        self.connections = 0
        self._accepting = self._start(self._accept)

    def deliveries(self, target: str | None = None) -> list[Delivery]:
        """Return what has arrived so far, at one path or at all."""
        with self._news:
            return [d for d in self._got if target in (None, d.target)]

    def wait(self, count: int, target: str | None = None, within_s: float = 60) -> list[Delivery]:
        """Return what has arrived, once it is so much."""

        def enough() -> bool:
            return sum(target in (None, d.target) for d in self._got) >= count

        with self._news:
            arrived = self._news.wait_for(enough, within_s)
        got = self.deliveries(target)
        assert arrived, f"{len(got)} of {count} deliveries within {within_s} s: {got}"
        return got

    def forget(self) -> None:
        with self._news:
            self._got.clear()

    def close(self) -> None:
        self._listener.close()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _start(self, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, sock)

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(30)
        with suppress(OSError), plain, self._context.wrap_socket(plain, server_side=True) as sock:
            delivery = _read(sock)
            with self._news:
                self._got.append(delivery)
                self._news.notify_all()
            self.answers.get(delivery.target, self.answer)(delivery, sock)


@contextmanager
def receiving(directory: Path) -> Iterator[Receiver]:
    """Receive webhooks until the block ends."""
    receiver = Receiver(directory)
    try:
        yield receiver
    finally:
        # A thread that waits in accept() is woken by a connection, not by closing.
        with suppress(OSError):
            receiver._listener.shutdown(socket.SHUT_RDWR)
        receiver.close()


def _read(sock: ssl.SSLSocket) -> Delivery:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += _some(sock)
    return Delivery(first.split(" ")[1], headers, body.decode())


def _some(sock: ssl.SSLSocket) -> bytes:
    data = sock.recv(65_536)
    if not data:
        raise OSError("hung up")
    return data
