"""The network of cloud environments: a worker's real sandboxes, the server's rules and secrets."""

import json
import shutil
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme

from intramuros.execution.egress import netns
from intramuros.execution.sandbox.base import Level
from intramuros.kernel.appendlog import read_lines
from tests.wire.conftest import SCRIPTS
from tests.wire.host import Server, running
from tests.wire.site import MESSAGE, Site
from tests.wire.test_cloud import ended, named, pool_key
from tests.wire.workers import ours

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

VALUE = "sk-live-5d0b1e7f"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of our own: a pool takes the work of every cloud environment there is."""
    data_dir = tmp_path_factory.mktemp("network") / "data"
    with running(data_dir, model_scripts=str(SCRIPTS)) as started:
        yield started


@pytest.fixture(scope="module", autouse=True)
def catching_host() -> None:
    found = netns.probe()
    if found.level is not Level.OK:
        pytest.skip(f"no egress on this host: {found.what}: {found.fix}")
    if shutil.which("curl", path="/usr/bin:/bin") is None:
        pytest.skip("this host has no curl for the agent to call with")


class Echo(BaseHTTPRequestHandler):
    """Repeats what it was sent, and notes it."""

    heard: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        said = f"key {self.headers['x-key']} body {body}"
        self.heard.append(said)
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())

    def log_message(self, *_: Any) -> None:
        return None


@contextmanager
def echo(authority: trustme.CA) -> Iterator[tuple[int, list[str]]]:
    """An HTTPS host called api.test; gives its port and what it hears."""
    heard: list[str] = []
    handler = type("Handler", (Echo,), {"heard": heard})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.test").configure_cert(context)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        host.socket = context.wrap_socket(host.socket, server_side=True)
        thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield host.server_address[1], heard
        finally:
            host.shutdown()
            thread.join()


async def this_machine(_name: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def environment(site: Site, networking: dict[str, Any]) -> str:
    config: Any = {"type": "cloud", "networking": networking}
    return site.api.beta.environments.create(name="net", config=config).id


def vault(site: Site) -> str:
    vault_id = site.api.beta.vaults.create(display_name="V").id
    auth: Any = {
        "type": "environment_variable",
        "secret_name": "API_TOKEN",
        "secret_value": VALUE,
        "networking": {"type": "limited", "allowed_hosts": ["api.test"]},
    }
    site.api.beta.vaults.credentials.create(vault_id, auth=auth)
    return vault_id


async def called(site: Site, port: int, environment_id: str, **more: Any) -> str:
    """Return what the agent read when it called the host of these tests."""
    beta = site.api.beta
    url = beta.files.upload(file=("url", f"https://api.test:{port}/".encode())).id
    session = beta.sessions.create(
        agent=site.agent("caller"),
        environment_id=environment_id,
        resources=[{"type": "file", "file_id": url, "mount_path": "/url"}],
        initial_events=[MESSAGE],
        **more,
    )
    log = await ended(site, session.id)
    text: str = named(log, "agent.tool_result")[0].content[0].text
    return text


async def test_R070_R072_R073_a_credential_is_put_in_outside_for_its_host_alone(
    site: Site, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "roots.pem"))
    networking = {"type": "limited", "allowed_hosts": ["api.test"]}
    with echo(authority) as (port, heard):
        allowed: dict[str, Any] = {
            "egress_allow": ("*",),
            "egress_ports": (port,),
            "egress_internal": ("api.test",),
            "egress_ca_file": tmp_path / "roots.pem",
        }
        async with ours(site, tmp_path, pool_key(site), this_machine, **allowed) as state:
            limited = environment(site, networking)
            read = await called(site, port, limited, vault_ids=[vault(site)])
            assert heard == [f"key {VALUE} body k={VALUE}"]
            placeholder = read.split("inside: ")[1].split()[0]
            assert f"key {placeholder} body k={placeholder}" in read
            assert "Could not resolve host: elsewhere.test" in read
            # The same credential where the environment does not let it go.
            elsewhere = environment(site, {**networking, "allowed_hosts": ["other.test"]})
            read = await called(site, port, elsewhere, vault_ids=[vault(site)])
            assert "Could not resolve host: api.test" in read
            assert len(heard) == 1
        records = [json.loads(line) for line in read_lines(state / "audit.jsonl")]
    kinds = {record["kind"] for record in records}
    assert {"egress.request", "egress.end", "egress.lookup"} <= kinds
    assert VALUE not in (state / "audit.jsonl").read_text() + read


async def test_R386_packages_are_asked_for_by_manager_and_what_fails_is_told(
    site: Site, tmp_path: Path
) -> None:
    packages: Any = {"pip": ["duckdb"], "cargo": ["ripgrep"], "apt": ["tree"]}
    networking: Any = {"type": "unrestricted"}
    config: Any = {"type": "cloud", "networking": networking, "packages": packages}
    made = site.api.beta.environments.create(name="net", config=config)
    # Nothing is installed from anywhere: the worker lets none of the registries through.
    async with ours(
        site, tmp_path, pool_key(site), this_machine, egress_allow=("x.test",)
    ) as state:
        read = await called(site, 443, made.id)
        records = [json.loads(line) for line in read_lines(state / "audit.jsonl")]
    note, *failures = read.split("\ninside:")[0].splitlines()
    assert note == "Packages of this environment could not be installed."
    first = [line.split(":")[0] for line in failures if line.startswith(("apt:", "cargo:", "pip:"))]
    assert first == ["apt", "cargo", "pip"]
    asked = [r["fields"]["manager"] for r in records if r["kind"] == "packages.install"]
    assert asked == ["apt", "cargo", "pip"]
    kinds = [r["kind"] for r in records]
    assert kinds.index("packages.install") < kinds.index("tool.result")


async def test_a_worker_that_allows_nothing_gives_no_network(site: Site, tmp_path: Path) -> None:
    async with ours(site, tmp_path, pool_key(site), this_machine):
        unrestricted = environment(site, {"type": "unrestricted"})
        read = await called(site, 443, unrestricted, vault_ids=[vault(site)])
    assert "Could not resolve host: api.test" in read
    assert "inside: \n" in read


async def test_the_operators_rules_alone_count_for_self_hosted_environments(
    site: Site, tmp_path: Path
) -> None:
    async with ours(site, tmp_path, None, this_machine, egress_allow=("api.test",)):
        session = site.session("caller", initial_events=[MESSAGE])
        log = await ended(site, session.id)
    read = named(log, "user.tool_result")[0].content[0].text
    # Its file of the URL is a cloud session's: the name of none is asked for.
    assert "Could not resolve host: elsewhere.test" in read


def test_only_the_token_of_the_sessions_own_work_is_told(site: Site) -> None:
    session = site.session()
    url = f"{site.server.base_url}/x/sessions/{session.id}/egress"
    assert httpx2.post(url).status_code == 401
    answer = httpx2.post(url, headers={"x-api-key": site.server.api_key})
    assert answer.status_code == 403
