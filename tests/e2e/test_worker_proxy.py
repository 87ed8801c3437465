"""A worker that reaches its control plane, in TLS, by a company's proxy alone, which dies."""

import base64
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from anyio import to_thread

from intramuros.kernel.appendlog import read_lines
from intramuros.protocol.audit import verify
from tests.e2e.worker_process import WorkerProcess
from tests.fakes.company_proxy import company
from tests.fakes.tls_front import tls_front
from tests.hosts import needs_sandboxes
from tests.waiting import until as waited
from tests.wire.site import MESSAGE, Site, scripted, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

NAME = "control.company"  # nothing resolves it: only the proxy knows where it is
BASIC = base64.b64encode(b"worker:open-sesame-42").decode()
COMMAND = "touch begun; until test -e go; do sleep 0.05; done; echo done"
SCRIPT = {
    "steps": [
        {"id": "run", "tools": [{"name": "bash", "input": {"command": COMMAND}}]},
        {"text": "It said ${word}.", "values": {"word": {"step": "run", "pattern": "done"}}},
    ]
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    needs_sandboxes()
    with scripted(tmp_path, SCRIPT) as made:
        yield made


async def test_the_job_outlives_the_proxy_and_its_password_is_nowhere(
    site: Site, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "credentials").write_text("worker:open-sesame-42\n")
    inner = urlsplit(site.server.base_url).port
    assert inner is not None
    async with tls_front(authority, NAME, inner) as front, AsyncExitStack() as stack:
        async with company(front) as proxy:
            proxy.accepts = f"Basic {BASIC}"
            worker = WorkerProcess(
                *(f"https://{NAME}", site.environment_id, site.key, tmp_path),
                *("--proxy", f"http://127.0.0.1:{proxy.port}"),
                *("--ca-file", str(tmp_path / "ca.pem")),
                *("--proxy-credentials-file", str(tmp_path / "credentials")),
            )
            worker.variables["INTRAMUROS_LOG_LEVEL"] = "debug"
            session = await to_thread.run_sync(lambda: site.session("it", initial_events=[MESSAGE]))
            await stack.enter_async_context(worker.run())
            await waited(worker.workspace("begun", session.id).exists, 30)
        # Every tunnel broke with the proxy; the call ends meanwhile.
        worker.workspace("go", session.id).touch()
        async with company(front, port=proxy.port) as proxy:
            proxy.accepts = "Basic changed"
            await waited(lambda: "let this pass (407)" in worker.log.read_text(), 30)
            proxy.accepts = f"Basic {BASIC}"
            log = await to_thread.run_sync(
                lambda: until(lambda: _answered(site, session.id)), abandon_on_cancel=True
            )
            await stack.aclose()
    results = [event for event in log if event.type == "user.tool_result"]
    assert [event.content[0].text.strip() for event in results] == ["done"]
    said = [event.content[0].text for event in log if event.type == "agent.message"]
    assert said == ["It said done."]
    verify(read_lines(worker.state / "audit.jsonl"))
    kept = worker.log.read_text() + (worker.state / "audit.jsonl").read_text()
    for secret in (BASIC, "open-sesame", site.key):
        assert secret not in kept


def _answered(site: Site, session_id: str) -> list[Any] | None:
    log = site.events(session_id)
    return log if any(event.type == "agent.message" for event in log) else None
