import re
import socket
from typing import Any

import anyio
import httpx2
import pytest
from anyio import to_thread

from intramuros.execution.hands import Hands
from intramuros.execution.sandbox.base import SandboxSpec
from intramuros.execution.vitals import Sources, Tally, Vitals
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop
from tests.fakes.sandbox import FakeProvider

pytestmark = pytest.mark.anyio


class Worker:
    def __init__(self) -> None:
        self.tally, self.stop, self.lack = Tally(), Stop(), [None]
        self.vitals = Vitals(
            ("127.0.0.1", 0),
            Sources(
                self.tally,
                Hands(FakeProvider(), SandboxSpec(), lambda: 0.0),
                lambda: self.lack[0],
                self.stop,
                about={"isolation": "none"},
            ),
        )


def test_it_lives_and_is_ready_only_while_it_takes_work() -> None:
    worker: Any = Worker()
    answer = worker.vitals.answer
    assert answer("GET", "/healthz")[0] == 200
    assert answer("GET", "/readyz")[2] == b"the control plane has not answered yet\n"
    worker.tally.ready = True
    assert answer("HEAD", "/readyz?verbose")[0] == 200
    worker.lack[0] = "3 MiB of memory are free"
    assert answer("GET", "/readyz") == (
        503,
        "text/plain; charset=utf-8",
        b"3 MiB of memory are free\n",
    )
    worker.lack[0] = None
    worker.stop.request()
    assert answer("GET", "/readyz")[2] == b"draining\n"
    assert answer("GET", "/healthz")[0] == 200
    assert answer("POST", "/healthz")[0] == 405
    assert answer("GET", "/")[0] == 404


def test_figures_have_names_of_ours_and_no_ids() -> None:
    worker: Any = Worker()
    for _ in range(3):
        worker.tally.begin()
    for outcome in ("idle", "idle"):
        worker.tally.end(outcome)
    text = worker.vitals.answer("GET", "/metrics")[2].decode()
    for line in (
        "intramuros_worker_ready 0.0",
        "intramuros_worker_claims_total 3.0",
        'intramuros_worker_items_ended_total{outcome="idle"} 2.0',
        "intramuros_worker_items_served 1.0",
        'intramuros_worker_sandboxes{state="running"} 0.0',
        'intramuros_worker_sandboxes{state="waiting"} 0.0',
        'intramuros_worker_first_calls_total{sandbox="waiting"} 0.0',
        "intramuros_worker_guests 0.0",
        "intramuros_worker_pool_waiting 0.0",
        "intramuros_worker_pool_wanted 0.0",
        'intramuros_worker_info{isolation="none"} 1.0',
    ):
        assert f"{line}\n" in text
    assert "sesn_" not in text
    assert re.search(r"^process_resident_memory_bytes [1-9]", text, re.MULTILINE)


async def test_it_answers_over_http_and_survives_what_is_none() -> None:
    worker: Any = Worker()
    async with worker.vitals.opened() as (host, port):
        base = f"http://{host}:{port}"
        with (
            socket.create_connection((host, port)) as silent,
            socket.create_connection((host, port)) as rude,
        ):
            rude.sendall(b"\x16\x03\x01 no http at all\r\n\r\n")

            def ask() -> list[int]:
                with httpx2.Client(trust_env=False) as client:
                    return [
                        client.get(base + path).status_code
                        for path in ("/healthz", "/metrics", "/x")
                    ]

            with anyio.fail_after(60):
                assert await to_thread.run_sync(ask) == [200, 200, 404]
            assert silent.fileno() > 0
        taken = Vitals((host, port), worker.vitals._sources)
        with pytest.raises(OperatorError, match="cannot listen"):
            async with taken.opened():
                pass
