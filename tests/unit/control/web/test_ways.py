"""The way through a proxy, to a real one; direct ways are tested with pages (test_fetch.py)."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from intramuros.kernel.timing import SystemClock
from intramuros.web.base import Answer
from intramuros.web.fetch import Fetcher
from intramuros.web.reader import Reader
from tests.fakes.website import page, serving
from tests.unit.web.doubles import Names, Notes, fetch, policy, ways

pytestmark = pytest.mark.anyio


class Proxy:
    """An HTTP proxy that resolves every name to loopback."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://user:pass@127.0.0.1:{self.listener.getsockname()[1]}"
        self.heads: list[str] = []
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                thread = threading.Thread(target=self._serve, args=(sock,))
                self.threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(4096)
            self.heads.append(head.decode())
            method, target, *_ = head.decode().split()
            authority = target if method == "CONNECT" else target.split("/")[2]
            port = int(authority.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)) as beyond:
                if method == "CONNECT":
                    sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                else:
                    beyond.sendall(head)
                back = threading.Thread(target=_pump, args=(beyond, sock))
                back.start()
                _pump(sock, beyond)
                back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def proxying() -> Iterator[Proxy]:
    proxy = Proxy()
    try:
        yield proxy
    finally:
        with suppress(OSError):
            proxy.listener.shutdown(socket.SHUT_RDWR)
        proxy.listener.close()
        for thread in proxy.threads:
            thread.join(60)
            assert not thread.is_alive()


def said(answer: Answer) -> str:
    return str(answer.content[0].get("source") or answer.content[0]["text"])


async def test_pages_are_reached_through_the_operators_proxy(tmp_path: Path) -> None:
    with proxying() as proxy, serving() as plain, serving(tmp_path) as safe:
        plain.pages["/a"] = page("plain", "text/plain")
        safe.pages["/a"] = page("safe", "text/plain")
        context = httpx2.create_ssl_context()
        context.load_verify_locations(cafile=safe.ca_file)
        bound = policy(
            plain.port, safe.port, proxy=httpx2.Proxy(proxy.url), context=context, networks=()
        )
        # A name that only the proxy can resolve.
        makes = Fetcher(bound, Reader(), Notes(), SystemClock(), ways(bound, Names([])))
        assert "plain" in said(await makes.fetch(fetch(f"http://site.example:{plain.port}/a")))
        assert "safe" in said(await makes.fetch(fetch(f"https://site.example:{safe.port}/a")))
        assert [head.split()[0] for head in proxy.heads] == ["GET", "CONNECT"]
        assert all("proxy-authorization: basic" in head.lower() for head in proxy.heads)
        assert "proxy-authorization" not in safe.asked[0].headers


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("http://inner.example/", ["10.0.0.1"]),
        ("http://metadata.example/", ["169.254.169.254"]),
        ("http://intranet/", []),
        ("http://localhost/", []),
        ("http://10.0.0.1/", ["10.0.0.1"]),
    ],
)
async def test_what_is_known_to_be_inside_is_not_asked_of_the_proxy(
    url: str, addresses: list[str]
) -> None:
    with proxying() as proxy:
        bound = policy(proxy=httpx2.Proxy(proxy.url), networks=())
        makes = Fetcher(bound, Reader(), Notes(), SystemClock(), ways(bound, Names(addresses)))
        assert said(await makes.fetch(fetch(url))).startswith("url_not_allowed")
        assert proxy.heads == []
