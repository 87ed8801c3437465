"""Web calls that workers make, when the worker or the server is killed in the middle of one."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from anthropic import Anthropic

from intramuros.control.session.web_lapses import WEB_DEAD
from intramuros.control.session.web_queue import NO_WORKER
from tests.e2e.rig import ROOT, child_environment
from tests.fakes.website import Asked, Origin, page, serving
from tests.hosts import needs_sandboxes
from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.site import Site, until
from tests.wire.test_web import of, records, said, surf

pytestmark = pytest.mark.timeout(240)
# More than a server takes to start on a busy machine.
PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with serving() as made:
        yield made


class Page:
    """A page that comes when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, asked: Asked, sock: Any) -> None:
        if self.go.wait(PATIENCE_S):
            page("fine", "text/plain")(asked, sock)


@contextmanager
def server_over(folder: Path, **more: Any) -> Iterator[Server]:
    with running(
        folder / "data",
        model_scripts=str(SCRIPTS),
        web_place="worker",
        web_tools=["web_fetch"],
        web_timeout_s=PATIENCE_S,
        **more,
    ) as started:
        yield started


@contextmanager
def visiting(server: Server) -> Iterator[Site]:
    with (
        Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=2) as client,
        Site(server, client) as site,
    ):
        yield site


@contextmanager
def worker_of(site: Site, folder: Path, origin: Origin) -> Iterator["subprocess.Popen[str]"]:
    folder.mkdir()
    key = folder / "key"
    key.write_text(site.key)
    key.chmod(0o600)
    told = {
        "base_url": site.server.base_url,
        "key_file": str(key),
        "state_dir": str(folder / "state"),
        "environment_id": site.environment_id,
        "origin_port": origin.port,
        "timeout_s": PATIENCE_S,
    }
    command = [sys.executable, "-m", "tests.e2e.web_worker", json.dumps(told)]
    environment = child_environment(PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{ROOT}")
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready"), (folder / "log").read_text()
            yield process
        finally:
            process.kill()


def reading(site: Site, origin: Origin, path: str, answer: Callable[..., None]) -> str:
    """Have an agent read a page; returns once the page is asked for."""
    origin.pages[path] = answer
    url = f"http://intranet.test:{origin.port}{path}"
    session = surf(site, "pagereader", say=url)
    until(lambda: True if path in origin.paths() else None, PATIENCE_S)
    return session


def rested(site: Site, session: str) -> list[Any]:
    def look() -> list[Any] | None:
        events = site.events(session)
        return events if of(events, "session.status_idle") else None

    return until(look, PATIENCE_S)


def test_a_killed_server_goes_on_and_a_killed_worker_is_noticed(
    tmp_path: Path, origin: Origin
) -> None:
    """A call has one result whoever dies, and no page is asked for twice."""
    needs_sandboxes()
    kept, never = Page(), Page()
    with server_over(tmp_path) as server, visiting(server) as site:
        port = urlsplit(server.base_url).port
        with worker_of(site, tmp_path / "worker", origin) as worker:
            read = reading(site, origin, "/kept", kept)
            server.process.kill()
            server.process.wait()
            with server_over(tmp_path, port=port) as again:
                kept.go.set()
                events = rested(site, read)
                lost = reading(site, origin, "/lost", never)
                os.kill(worker.pid, signal.SIGKILL)
                killed_s = time.monotonic()
                until(lambda: of(site.events(lost), "agent.tool_result") or None, PATIENCE_S / 2)
                took_s = time.monotonic() - killed_s
                told = rested(site, lost)
                never.go.set()
    assert said(events) == "It says fine"
    assert len(of(events, "agent.tool_result")) == 1
    shown = [kind for kind, _ in records(again, read)]
    assert shown == ["web.call", "web.hand_over", "web.result"]
    # The model asks again, and hears that nobody is there: nobody counts on a dead worker.
    assert took_s < PATIENCE_S / 3, "long before the call's time was over"
    results = of(told, "agent.tool_result")
    assert [result.is_error for result in results] == [True] * len(results)
    assert results[0].content[0].text == WEB_DEAD
    assert all(NO_WORKER in result.content[0].text for result in results[1:])
    assert len({result.tool_use_id for result in results}) == len(results)
    shown = [kind for kind, _ in records(again, lost)]
    assert shown[:3] == ["web.call", "web.hand_over", "web.lost"]
    assert shown.count("web.hand_over") == 1
    assert origin.paths() == ["/kept", "/lost"]
