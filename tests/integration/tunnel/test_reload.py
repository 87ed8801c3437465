"""A gateway's file is changed while it serves: what it takes up, what it refuses, what goes on."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import yaml
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop
from intramuros.tunnel import ledger, reload
from intramuros.tunnel.gateway_app import GatewaySettings, serve_gateway
from intramuros.tunnel.reload import Asked
from tests.integration.tunnel.rig import (
    DOMAIN,
    Rig,
    client_of,
    eventually,
    running_edge,
    running_upstream,
    url,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

Logs = list[Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "RECHECK_S", 0.1)


@dataclass
class Server:
    """A private server that says who it is, and answers some things only when it is told to."""

    name: str
    calls: list[str] = field(default_factory=list)
    go_on: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.calls.append(scope["path"])
        headers = [(b"content-type", b"text/event-stream")]
        if scope["path"] == "/slow":
            await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/stream":
            await send({"type": "http.response.body", "body": b"first ", "more_body": True})
            await self.go_on.wait()
        await send({"type": "http.response.body", "body": self.name.encode()})


class Installation:
    """A gateway with a file, two private servers, and a client."""

    def __init__(self, rig: Rig, edge: int, ports: tuple[int, int], servers: tuple[Server, Server]):
        self.rig, self.edge = rig, edge
        self.one, self.two = (f"http://127.0.0.1:{port}" for port in ports)
        self.servers = servers
        self.asked = Asked()
        self.logs: Logs = []
        self.file = rig.home / "gateway.yaml"
        self.config: dict[str, Any] = {
            "listen_addr": ":8080",
            "tunnel_domain": DOMAIN,
            "tls": {"cert_file": "tls.crt", "key_file": "tls.key"},
            "routes": {"docs": self.one},
            "upstream": {"allowed_ips": ["127.0.0.1"]},
            "edge": [f"127.0.0.1:{edge}"],
            "edge_ca_file": "edge-ca.crt",
            "token_file": "tunnel-token",
            "control_key_file": "control.pub",
            "audit_file": "gateway-audit.jsonl",
            "shutdown_timeout": "1s",
        }
        self.write()

    def write(self, text: str | None = None, **changes: Any) -> None:
        """Replace the file in one step, as operators are told to."""
        self.config |= changes
        whole = yaml.safe_dump(self.config) if text is None else text
        fresh = self.rig.write("gateway.yaml.new", whole.encode())
        fresh.replace(self.file)

    async def told(self, event: str, count: int = 1) -> Any:
        """Wait until the log says something so often; return what it said last."""

        async def said() -> bool:
            return sum(entry["event"] == event for entry in self.logs) >= count

        await eventually(said, 60)
        return [entry for entry in self.logs if entry["event"] == event][-1]

    def recorded(self, kind: str) -> list[Any]:
        """Return what is on record; a refusal, which nobody waits for, is so soon after."""
        return [r["fields"] for r in self.rig.audit("gateway-audit.jsonl") if r["kind"] == kind]


@asynccontextmanager
async def installed(home: Path, **changes: Any) -> AsyncIterator[tuple[Installation, Any]]:
    rig, servers = Rig(home), (Server("one"), Server("two"))
    async with (
        running_upstream(servers[0]) as first,
        running_upstream(servers[1]) as second,
        running_edge(rig) as edge,
        client_of(rig, edge) as client,
    ):
        here = Installation(rig, edge, (first, second), servers)
        here.write(**changes)
        ready, stop = anyio.Event(), Stop()
        with capture_logs() as here.logs:
            async with anyio.create_task_group() as group:
                run = partial(
                    serve_gateway,
                    GatewaySettings(here.file),
                    on_ready=lambda _: ready.set(),
                    stop=stop,
                    asked=here.asked,
                )
                group.start_soon(run)
                with anyio.fail_after(60):
                    await ready.wait()
                try:
                    yield here, client
                finally:
                    for server in servers:
                        server.go_on.set()
                    group.cancel_scope.cancel()


async def get(client: httpx2.AsyncClient, label: str = "docs", path: str = "/") -> tuple[int, str]:
    answer = await client.get(url(path, label))
    return answer.status_code, answer.text if answer.status_code == 200 else ""


async def test_routes_are_taken_up_and_recorded_before_they_count(tmp_path: Path) -> None:
    async with installed(tmp_path) as (here, client):
        assert await get(client) == (200, "one")
        before = reload.read(here.file).sha256
        here.write(routes={"docs": here.two, "wiki": here.one})
        said = await here.told("configuration_reloaded")
        assert await get(client) == (200, "two")
        assert await get(client, "wiki") == (200, "one")
        assert (said["added"], said["changed"]) == (["wiki"], ["docs"])
        here.write(routes={"wiki": here.one})
        await here.told("configuration_reloaded", 2)
        # Also on the connections that were open.
        assert await get(client) == (404, "")
        assert await get(client, "wiki") == (200, "one")
        assert here.recorded("gateway.reloaded") == [
            {
                "sha256": said["sha256"],
                "before_sha256": before,
                "added": ["wiki"],
                "changed": ["docs"],
            },
            {
                "sha256": reload.read(here.file).sha256,
                "before_sha256": said["sha256"],
                "removed": ["docs"],
            },
        ]
        kinds = [record["kind"] for record in here.rig.audit("gateway-audit.jsonl")]
        assert kinds.index("gateway.reloaded") > kinds.index("mcp.request")
    assert [each["event"] for each in here.logs if "fail" in each["event"]] == []


async def test_a_file_can_be_asked_for_and_what_is_the_same_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "RECHECK_S", 3600.0)
    async with installed(tmp_path) as (here, client):
        here.asked.ask()
        await here.told("configuration_unchanged")
        here.write(routes={"docs": here.two})
        here.asked.ask()
        await here.told("configuration_reloaded")
        assert await get(client) == (200, "two")
        # A comment alone is another file, and no other routes.
        here.write(here.file.read_text() + "# all is well\n")
        here.asked.ask()
        said = await here.told("configuration_reloaded", 2)
        assert not {"added", "removed", "changed", "settings"} & set(said)
        assert len(here.recorded("gateway.reloaded")) == 2


async def test_calls_under_way_end_on_their_old_route_and_streams_of_it_are_ended(
    tmp_path: Path,
) -> None:
    async with installed(tmp_path) as (here, client):
        found: list[httpx2.Response] = []

        async def slow() -> None:
            found.append(await client.post(url("/slow"), content=b"x"))

        async def stream() -> None:
            async with client.stream("GET", url("/stream")) as answer:
                with pytest.raises(httpx2.TransportError):
                    await answer.aread()

        async with anyio.create_task_group() as group:
            group.start_soon(slow)
            group.start_soon(stream)

            async def begun() -> bool:
                return sorted(here.servers[0].calls) == ["/slow", "/stream"]

            await eventually(begun, 60)
            here.write(routes={"wiki": here.two})
            await here.told("configuration_reloaded")
            assert await get(client) == (404, "")

            async def ended() -> bool:
                done = [e for e in here.logs if e["event"] == "request_done"]
                return "route_gone" in [each["ended"] for each in done]

            # The stream is ended by the gateway, the call is not.
            await eventually(ended, 60)
            assert found == []
            here.servers[0].go_on.set()
        assert (found[0].status_code, found[0].text) == (200, "one")


async def test_streams_of_other_routes_outlive_a_change(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"shutdown_timeout": "0s"}
    async with installed(tmp_path, **changes) as (here, client):
        async with client.stream("GET", url("/stream")) as answer:
            here.write(routes={"docs": here.one, "wiki": here.two})
            await here.told("configuration_reloaded")
            # More may be reached than before: what is open stays open.
            here.write(upstream={"allowed_ips": ["127.0.0.0/8", "10.0.0.0/8"]})
            await here.told("configuration_reloaded", 2)
            assert await get(client, "wiki") == (200, "two")
            here.servers[0].go_on.set()
            assert await answer.aread() == b"first one"
        here.servers[0].go_on = anyio.Event()
        async with client.stream("GET", url("/stream")) as answer:
            # Less may be reached: calls are refused and streams end.
            here.write(upstream={"allowed_ips": ["10.0.0.0/8"]})
            said = await here.told("configuration_reloaded", 3)
            assert said["settings"] == ["upstream"]
            with pytest.raises(httpx2.TransportError):
                await answer.aread()
            assert (await get(client, "wiki"))[0] == 502


WRONG: list[tuple[Callable[[str], str], str]] = [
    (lambda _: "routes: [", "no YAML"),
    (lambda text: text.replace("docs:", "Docs:"), "routes"),
    (lambda text: text.replace("tunnel-token", "other-token"), "token_file changed"),
    (lambda text: text.replace(DOMAIN, f"x.{DOMAIN}"), "tunnel_domain changed"),
    (lambda text: text.replace(":8080", ":8081"), "listen_addr changed"),
    (lambda text: text + "planted: planted-secret\n", "unknown key 'planted'"),
    (lambda text: text.replace("docs:", "docs.elsewhere.example:"), "check 'san'"),
    (lambda text: text.replace("allowed_ips", "tls: {ca_file: no}\n  allowed_ips"), "ca_file"),
    (lambda text: text.replace("  docs:", "  tools: {command: [/no]}\n  docs:"), "/no"),
]


async def test_a_file_that_is_wrong_is_refused_whole(tmp_path: Path) -> None:
    async with installed(tmp_path) as (here, client):
        good = yaml.safe_dump({**here.config, "routes": {"docs": here.two}})
        for count, (damage, reason) in enumerate(WRONG, 1):
            bad = damage(good)
            assert bad != good
            here.write(bad)
            said = await here.told("configuration_refused", count)
            assert reason in said["reason"]
            assert "restart" in said["fix"] or "changed" not in reason
            assert await get(client) == (200, "one")
            record = here.recorded("gateway.reload_refused")[-1]
            assert (record["reason"], record["sha256"]) == (said["reason"], said["sha256"])
        # Once each, however often it looks; and again for who asks.
        await anyio.sleep(0.5)
        assert sum(each["event"] == "configuration_refused" for each in here.logs) == len(WRONG)
        here.asked.ask()
        await here.told("configuration_refused", len(WRONG) + 1)
        assert "planted-secret" not in str(here.logs)
        here.write(good)
        await here.told("configuration_reloaded")
        assert await get(client) == (200, "two")
        assert len(here.recorded("gateway.reloaded")) == 1


async def test_a_file_that_is_gone_or_put_back_changes_nothing(tmp_path: Path) -> None:
    async with installed(tmp_path) as (here, client):
        text = here.file.read_text()
        here.file.unlink()
        assert "cannot read" in (await here.told("configuration_refused"))["reason"]
        assert await get(client) == (200, "one")
        here.write(text)
        await here.told("configuration_unchanged")
        assert here.recorded("gateway.reloaded") == []
        assert await get(client) == (200, "one")


async def test_what_a_refused_file_wants_may_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "RETRY_S", 0.0)
    async with installed(tmp_path) as (here, _):
        tls = {"allowed_ips": ["127.0.0.1"], "tls": {"ca_file": "ca.pem"}}
        here.write(upstream=tls)
        await here.told("configuration_refused")
        here.rig.write("ca.pem", here.rig.ca.cert_pem)
        await here.told("configuration_reloaded")
        assert len(here.recorded("gateway.reload_refused")) == 1
        # What the CA's file holds counts as well.
        here.rig.write("ca.pem", here.rig.edge_ca)
        said = await here.told("configuration_reloaded", 2)
        assert said["settings"] == ["upstream.tls.ca_file"]


async def test_a_file_that_is_being_written_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "RECHECK_S", 0.5)
    async with installed(tmp_path) as (here, client):
        # Each beginning of the rest is a whole configuration, but for its routes.
        here.config.pop("routes")
        start = yaml.safe_dump(here.config) + f"routes:\n  docs: {here.two}"
        with here.file.open("w") as file:
            file.write(start)
            for letter in f"\n  wiki: {here.two}":
                file.flush()
                await anyio.sleep(0.05)
                file.write(letter)
        said = await here.told("configuration_reloaded")
        assert (said["added"], said["changed"]) == (["wiki"], ["docs"])
        assert await get(client, "wiki") == (200, "two")
        assert here.recorded("gateway.reload_refused") == []
        assert len(here.recorded("gateway.reloaded")) == 1


async def test_a_file_of_a_config_map_is_taken_up_when_its_link_is_swapped(tmp_path: Path) -> None:
    async with installed(tmp_path) as (here, client):

        def publish(name: str, **routes: str) -> None:
            """Swap a directory as Kubernetes does: all files at once, by one link."""
            made = here.rig.home / name
            made.mkdir()
            text = yaml.safe_dump({**here.config, "routes": routes})
            (made / "gateway.yaml").write_text(text)
            fresh = here.rig.home / "..data_tmp"
            fresh.symlink_to(name)
            fresh.replace(here.rig.home / "..data")

        publish("..one", docs=here.two)
        link = here.rig.home / "link"
        link.symlink_to("..data/gateway.yaml")
        link.replace(here.file)
        await here.told("configuration_reloaded")
        assert await get(client) == (200, "two")
        publish("..two", docs=here.one, wiki=here.two)
        await here.told("configuration_reloaded", 2)
        assert await get(client) == (200, "one")
        assert await get(client, "wiki") == (200, "two")


async def test_t35_what_cannot_be_recorded_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, write = [True], ledger.Ledger._write  # type: ignore[attr-defined]

    def refuse(self: ledger.Ledger, batch: list[Any]) -> None:
        if broken[0] and any(entry.record.kind == reload.ACCEPTED for entry in batch):
            for entry in batch:
                entry.done, entry.error = True, OSError("no space left")
            return
        write(self, batch)

    monkeypatch.setattr(ledger.Ledger, "_write", refuse)
    async with installed(tmp_path) as (here, client):
        here.write(routes={"docs": here.two})
        said = await here.told("configuration_refused")
        assert said["reason"] == reload.UNRECORDED
        await anyio.sleep(0.5)
        assert await get(client) == (200, "one")
        assert sum(entry["event"] == "configuration_refused" for entry in here.logs) == 1
        broken[0] = False
        await here.told("configuration_reloaded")
        assert await get(client) == (200, "two")
        assert len(here.recorded(reload.ACCEPTED)) == 1


async def test_a_wrong_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"nowhere\.yaml") as caught:
        reload.read(tmp_path / "nowhere.yaml")
    assert caught.value.digest == ""  # type: ignore[attr-defined]
    file = tmp_path / "gateway.yaml"
    file.write_text("a: [")
    with pytest.raises(OperatorError, match="YAML") as caught:
        reload.read(file)
    assert len(caught.value.digest) == 64  # type: ignore[attr-defined]
