"""A server that is asked to stop while others can take over: nobody's request is lost with it."""

import signal
import threading
from pathlib import Path

import httpx2
import pytest

from tests.wire.host import Server, running
from tests.wire.site import until

# Until the next signal.
LONG_S = 3600.0
THREADS = 4


@pytest.mark.timeout(120)
def test_a_server_that_leaves_answers_everybody_and_keeps_nobody(tmp_path: Path) -> None:
    with running(tmp_path / "data", leave_s=LONG_S) as server:
        headers = {"x-api-key": server.api_key}
        with httpx2.Client(base_url=server.base_url, headers=headers, timeout=30) as kept:
            assert kept.get("/readyz").json() == {"status": "ready"}
            assert "connection" not in kept.get("/x/keys").headers
            server.process.send_signal(signal.SIGTERM)
            until(lambda: kept.get("/readyz").status_code == 503 or None)
            answer = kept.get("/x/keys")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            assert kept.post("/x/keys", json={"name": "n"}).status_code == 200
            assert kept.get("/healthz").json() == {"status": "ok"}
            assert kept.get("/readyz").json() == {"status": "leaving"}
        # Who cannot wait says so.
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert "request_failed" not in server.log


class Client(threading.Thread):
    """Asks whoever is ready, as a balancer would, and never twice for the same."""

    def __init__(self, ready: list[Server]) -> None:
        super().__init__()
        self._ready = ready
        self.done = threading.Event()
        self.served: list[str] = []
        self.failed: list[str] = []

    def run(self) -> None:
        headers = {"x-api-key": self._ready[0].api_key}
        with httpx2.Client(headers=headers, timeout=30) as http:
            while not self.done.is_set():
                base_url = self._ready[0].base_url
                try:
                    answer = http.get(f"{base_url}/x/keys")
                    if answer.status_code != 200:
                        self.failed.append(answer.text)
                except httpx2.HTTPError as error:
                    self.failed.append(repr(error))
                self.served.append(base_url)


@pytest.mark.timeout(120)
def test_no_request_fails_while_servers_take_turns(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, leave_s=LONG_S) as old, running(data) as new:
        ready = [old]
        clients = [Client(ready) for _ in range(THREADS)]
        for client in clients:
            client.start()
        try:
            until(lambda: all(len(client.served) > 10 for client in clients) or None)
            old.process.send_signal(signal.SIGTERM)
            until(lambda: httpx2.get(f"{old.base_url}/readyz").status_code == 503 or None)
            ready[0] = new
            until(lambda: all(new.base_url in client.served for client in clients) or None)
            old.process.send_signal(signal.SIGTERM)
            assert old.process.wait(60) == 0
        finally:
            for client in clients:
                client.done.set()
            for client in clients:
                client.join()
        assert [client.failed for client in clients] == [[]] * THREADS
