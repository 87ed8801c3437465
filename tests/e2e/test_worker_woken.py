"""A real worker that sleeps, a real server's webhooks, and what passes them on, which dies."""

import socket
from collections.abc import Iterator
from pathlib import Path
from ssl import SSLSocket
from typing import Any

import httpx2
import pytest
import yaml
from anthropic import Anthropic
from anyio import to_thread

from intramuros.execution.sandbox import bwrap
from intramuros.execution.sandbox.base import Level
from intramuros.kernel.appendlog import read_lines
from intramuros.protocol.audit import verify
from tests.e2e.worker_process import WorkerProcess
from tests.fakes.receiver import Delivery, Receiver, receiving, status
from tests.wire.host import running
from tests.wire.site import MESSAGE, Site, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

BETA = {"anthropic-beta": "webhooks-2026-10-07"}
SCRIPT = {
    "steps": [
        {"id": "run", "tools": [{"name": "bash", "input": {"command": "echo done"}}]},
        {"text": "It said ${word}.", "values": {"word": {"step": "run", "pattern": "done"}}},
    ]
}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path) as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, receiver: Receiver) -> Iterator[Site]:
    for finding in bwrap.probe():
        if finding.level is Level.FAILURE:
            pytest.skip(f"no sandbox on this host: {finding.what}: {finding.fix}")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "runs.yaml").write_text(yaml.safe_dump(SCRIPT))
    settings: dict[str, Any] = {
        "webhook_networks": ["127.0.0.0/8"],
        "webhook_ports": [receiver.port],
        "webhook_ca_file": str(receiver.ca_file),
        "webhook_retry_min_s": 0.1,
        "webhook_retry_max_s": 0.2,
    }
    scripts = str(tmp_path / "scripts")
    with (
        running(tmp_path / "server", model_scripts=scripts, **settings) as server,
        Anthropic(base_url=server.base_url, api_key=server.api_key) as api,
        Site(server, api) as made,
    ):
        yield made


class PassingOn:
    """The operator's own receiver: sends what comes to the worker, as it is."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.statuses: list[int] = []

    def __call__(self, delivery: Delivery, sock: SSLSocket) -> None:
        code = self.send(delivery.headers, delivery.body)
        self.statuses.append(code)
        status(code)(delivery, sock)

    def send(self, headers: dict[str, str], body: str) -> int:
        about = {name: text for name, text in headers.items() if name.startswith("webhook-")}
        try:
            with httpx2.Client(trust_env=False) as http:
                return http.post(self._url, content=body, headers=about).status_code
        except httpx2.TransportError:
            return 502


async def test_a_sleeping_worker_serves_what_webhooks_tell_of_and_what_they_did_not(
    site: Site, receiver: Receiver, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    receiver.answer = passing = PassingOn(f"http://{address}/wake")
    secret = tmp_path / "webhook-secret"
    secret.write_text(subscribe(site, receiver.url))
    secret.chmod(0o600)
    worker = WorkerProcess(
        *(site.server.base_url, site.environment_id, site.key, tmp_path),
        *("--wake-listen", address, "--wake-secret-file", str(secret), "--wake-poll-s", "900"),
    )
    # What is told now, nobody hears: all attempts are lost.
    lost = await to_thread.run_sync(begun, site)
    await to_thread.run_sync(until, lambda: passing.statuses.count(502) == 3 or None, 60)
    async with worker.run():
        await answered(site, lost)
        for _ in range(2):
            await answered(site, await to_thread.run_sync(begun, site))
        assert passing.statuses.count(200) >= 2
        told = receiver.deliveries()[-1]
        assert passing.send(told.headers, told.body) == 200, "repeated: heard, and no more"
        assert passing.send(told.headers, told.body + " ") == 401
        old = receiver.deliveries()[0]
        assert passing.send({**told.headers, "webhook-id": "msg_2"}, old.body) == 401
    verify(read_lines(worker.state / "audit.jsonl"))
    kept = worker.log.read_text() + (worker.state / "audit.jsonl").read_text()
    assert secret.read_text() not in kept
    assert kept.count("webhook_refused") == 2


def subscribe(site: Site, url: str) -> str:
    answer = httpx2.post(
        f"{site.server.base_url}/v1/webhooks",
        headers={"x-api-key": site.server.api_key, **BETA},
        json={"url": url, "enabled_events": ["session.status_run_started"]},
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["signing_secret"])


def begun(site: Site) -> str:
    return site.session("runs", initial_events=[MESSAGE]).id


async def answered(site: Site, session_id: str) -> None:
    def look() -> list[str] | None:
        said = [e.content[0].text for e in site.events(session_id) if e.type == "agent.message"]
        return said or None

    said = await to_thread.run_sync(until, look, 60, abandon_on_cancel=True)
    assert said == ["It said done."]
