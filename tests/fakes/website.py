"""A web server on loopback, on threads of its own: pages, engines, and servers that mean harm.

What is answered is bytes on the wire, so that any mistake or malice can be played.
"""

import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

Answer = Callable[["Asked", socket.socket], None]


@dataclass(frozen=True)
class Asked:
    """One request as it came; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The path alone, also of the absolute form that proxies are sent."""
        path = self.target.partition("?")[0]
        return f"/{path.split('/', 3)[3]}" if "://" in path else path

    def json(self) -> Any:
        return json.loads(self.body)


def page(
    body: bytes | str, content_type: str = "text/html; charset=utf-8", status: int = 200
) -> Answer:
    """Answer with a body."""
    data = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(data)}\r\n"
    return raw(f"{head}connection: close\r\n\r\n".encode() + data)


def raw(data: bytes) -> Answer:
    """Answer with bytes."""
    return lambda _asked, sock: sock.sendall(data)


def moved(location: str, status: int = 302) -> Answer:
    """Redirect."""
    return raw(f"HTTP/1.1 {status} X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode())


def squeezed(data: bytes, encoding: str = "gzip") -> Answer:
    """Answer with a compressed body."""
    body = gzip.compress(data)
    head = f"HTTP/1.1 200 X\r\ncontent-type: text/plain\r\ncontent-encoding: {encoding}\r\n"
    return raw(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


def endless(asked: Asked, sock: socket.socket) -> None:
    """Never stop talking."""
    sock.sendall(b"HTTP/1.1 200 X\r\ncontent-type: text/plain\r\n\r\n")
    while True:
        sock.sendall(b"x" * 65_536)


def dripping(asked: Asked, sock: socket.socket) -> None:
    """Send a byte now and then."""
    sock.sendall(b"HTTP/1.1 200 X\r\ncontent-type: text/plain\r\n\r\n")
    while True:
        sock.sendall(b"x")
        time.sleep(0.05)  # noqa: TID251  a slow server


def silent(asked: Asked, sock: socket.socket) -> None:
    """Wait until the other side has gone."""
    while sock.recv(65_536):
        pass


class Origin:
    """A server whose pages a test sets: ``origin.pages["/path"] = page("…")``."""

    def __init__(self, directory: Path | None = None) -> None:
        self._context: ssl.SSLContext | None = None
        scheme = "http"
        if directory is not None:
            authority = trustme.CA()
            self.ca_file = directory / "origin-ca.pem"
            authority.cert_pem.write_to_path(str(self.ca_file))
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1", "localhost", "site.example").configure_cert(
                self._context
            )
            scheme = "https"
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.pages: dict[str, Answer] = {}
        self.asked: list[Asked] = []
        self.left = 0
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(20)
        with sock, suppress(OSError):
            served = self._context.wrap_socket(sock, server_side=True) if self._context else sock
            with served, suppress(OSError):
                asked = _read(served)
                self.asked.append(asked)
                answer = self.pages.get(asked.path, page("nothing here", status=404))
                try:
                    answer(asked, served)
                finally:
                    self.left += 1


def _read(sock: socket.socket) -> Asked:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65_536)
        if not more:
            raise OSError("hung up")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += sock.recv(65_536)
    method, target, _ = first.split(" ", 2)
    return Asked(method, target, headers, body)


@contextmanager
def serving(directory: Path | None = None) -> Iterator[Origin]:
    """Serve until the block ends; over TLS when there is a directory for the CA's certificate."""
    origin = Origin(directory)
    try:
        yield origin
    finally:
        origin.close()
