"""All programs of one installation, with a wire of its own between every two of them."""

import secrets
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.abc
import httpx2
import uvicorn
import yaml

from intramuros.kernel.timing import SystemClock
from intramuros.tunnel.certs import make_self_signed_edge, write_private
from tests.postgres import Cluster
from tests.torture.journal import Journal
from tests.torture.link import Link
from tests.torture.model import Model
from tests.torture.networks import Network, closed_network
from tests.torture.programs import Program, came_true
from tests.torture.schedule import Targets
from tests.torture.upstream import upstream

BETA = {"anthropic-version": "2023-06-01", "anthropic-beta": "managed-agents-2026-04-01"}
LOOPBACK = "127.0.0.1"
DISK_BYTES = 96 * 1024 * 1024


@dataclass(frozen=True)
class Shape:
    """How large a world is, and what it may be hurt with."""

    servers: int = 2
    workers: int = 2
    tunnel: bool = True
    provider: str = "bubblewrap"
    disks: bool = False
    networks: bool = False
    clocks: bool = True


@dataclass
class World:
    """A running installation. ``home`` holds everything that it leaves."""

    home: Path
    shape: Shape
    database_url: str
    cluster: Cluster | None
    model: Model
    api_key: str
    programs: dict[str, Program] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    disks: dict[str, Path] = field(default_factory=dict)
    agents: dict[str, str] = field(default_factory=dict)
    environment_id: str = ""
    environment_key: str = ""
    secrets: list[str] = field(default_factory=list)
    skewed_s: float = 0.0
    """The farthest that a clock was moved."""

    @property
    def doors(self) -> list[str]:
        """Addresses at which clients reach the servers, through wires."""
        links = [link for name, link in self.links.items() if name.startswith("client-")]
        return [f"http://{LOOPBACK}:{link.port}" for link in links]

    def port(self, number: int) -> int:
        """The port of a server itself."""
        target = self.links[f"client-server.{number}"].target
        assert isinstance(target, tuple)
        return target[1]

    def targets(self) -> Targets:
        """What a schedule may hurt."""
        clocks = [n for n in self.programs if n.startswith("server")] if self.shape.clocks else []
        return Targets(
            programs=sorted(self.programs),
            links=sorted(self.links),
            database=self.cluster is not None,
            clocks=sorted(clocks),
            disks=sorted(self.disks),
            networks=sorted(self.networks),
        )

    def effects(self, worker: str) -> Path:
        """Where the sandboxes of a worker leave their marks."""
        return self.home / "effects" / worker


@asynccontextmanager
async def running(
    home: Path, shape: Shape, seed: int, database_url: str | None, cluster: Cluster | None
) -> AsyncIterator[World]:
    """Start a world, and end it with the block: nothing of it lives on."""
    journals = home / "journals"
    journals.mkdir(parents=True)
    sworn = ExitStack()
    model = Model(sworn.enter_context(Journal(journals / "model.jsonl")), seed)
    calls = sworn.enter_context(Journal(journals / "upstream.jsonl"))
    url = database_url or f"sqlite:///{home / 'server.0' / 'intramuros.db'}"
    world = World(home, shape, url, cluster, model, f"sk-ant-{secrets.token_urlsafe(24)}")
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(group.cancel_scope.cancel)
        stack.push_async_callback(_end, world)
        stack.push(sworn)
        with _served(model) as model_port, _served(upstream(calls)) as upstream_port:
            model.forbidden_port = model_port
            await _Builder(world, group).build(model_port, upstream_port)
            for program in world.programs.values():
                group.start_soon(program.watch)
            yield world
            await _end(world)


async def _end(world: World) -> None:
    for program in world.programs.values():
        with anyio.CancelScope(shield=True):
            await program.kill()
    for network in world.networks.values():
        network.close()
    for disk in world.disks.values():
        _unmount(disk)


@contextmanager
def _served(app: Any) -> Iterator[int]:
    """Serve an application on loopback, on a thread of its own; gives its port."""
    listener = socket.create_server((LOOPBACK, 0))
    config = uvicorn.Config(
        app, http="httptools", log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class _Builder:
    """Puts a world together, in the order in which an operator would."""

    def __init__(self, world: World, group: anyio.abc.TaskGroup) -> None:
        self.world = world
        self.group = group
        self.shape = world.shape

    async def build(self, model_port: int, upstream_port: int) -> None:
        world, shape = self.world, self.shape
        edge_port = _free_port()
        if shape.tunnel:
            self._edge_files()
        for number in range(shape.servers):
            self._server(number, model_port, edge_port)
        await self._start("server.0")
        for number in range(1, shape.servers):
            home = world.home / f"server.{number}"
            home.mkdir()
            shutil.copy(world.home / "server.0" / "master-key", home / "master-key")
            world.programs[f"server.{number}"].start()
        headers = {"x-api-key": world.api_key, **BETA}
        url = f"http://{LOOPBACK}:{world.port(0)}"
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60) as api:
            await self._environment(api)
            for number in range(shape.workers):
                self._worker(number)
            if shape.tunnel:
                await self._tunnel(edge_port, upstream_port)
            await self._agents(api)
        for program in world.programs.values():
            await program.ready()

    async def _start(self, name: str) -> None:
        self.world.programs[name].start()
        await self.world.programs[name].ready()

    def _link(self, name: str, target: tuple[str, int] | Path, host: str = LOOPBACK) -> int:
        link = self.world.links[name] = Link(name, target, host)
        self.group.start_soon(link.run)
        return link.port

    def _server(self, number: int, model_port: int, edge_port: int) -> None:
        world, name = self.world, f"server.{number}"
        port = _free_port()
        self._link(f"client-{name}", (LOOPBACK, port))
        model = self._link(f"{name}-model", (LOOPBACK, model_port))
        env = {
            "INTRAMUROS_BOOTSTRAP_API_KEY": world.api_key,
            "INTRAMUROS_MODEL_BASE_URL": f"http://{LOOPBACK}:{model}",
            "INTRAMUROS_MODEL_API_KEY": "sk-none",
            "INTRAMUROS_BLOB_URL": f"file://{world.home / 'blobs'}",
        }
        if world.cluster is not None:
            path = world.cluster.directory / ".s.PGSQL.5432"
            through = self._link(f"{name}-database", path)
            database = urlsplit(world.database_url).path.strip("/")
            user = world.cluster.user
            env["INTRAMUROS_DATABASE_URL"] = f"postgresql://{user}@{LOOPBACK}:{through}/{database}"
        arguments = ["server", "--data-dir", str(world.home / name), "--port", str(port)]
        # Sessions that were made twice, and never used, let go of their workers after this.
        arguments += ["--dormancy-s", "8"]
        if self.shape.tunnel:
            dial = self._link(f"{name}-edge", (LOOPBACK, edge_port))
            ca = world.home / "certificates" / "edge-ca.pem"
            arguments += ["--edge", f"{LOOPBACK}:{dial}", "--edge-ca-file", str(ca)]
        home = self._disk(name) if number else world.home / name
        world.programs[name] = Program(name, home, arguments, env)

    def _disk(self, name: str) -> Path:
        """Return a program's directory, on a small disk of its own where that can be had."""
        home = self.world.home / name
        if self.shape.disks and name.startswith("worker"):
            home.mkdir()
            if _mount(home):
                self.world.disks[name] = home
        return home

    def _edge_files(self) -> None:
        folder = self.world.home / "certificates"
        folder.mkdir()
        ca, pair = make_self_signed_edge(["localhost", LOOPBACK], SystemClock().now())
        write_private(folder / "edge-ca.pem", ca)
        write_private(folder / "edge.pem", pair.cert_pem)
        write_private(folder / "edge-key.pem", pair.key_pem)

    async def _tunnel(self, edge_port: int, upstream_port: int) -> None:
        world, folder = self.world, self.world.home / "certificates"
        home = world.home / "edge"
        (home / "relayed").mkdir(parents=True)
        files = {
            "--cert-file": folder / "edge.pem",
            "--key-file": folder / "edge-key.pem",
            "--control-key-file": world.home / "server.0" / "ticket-key.pem",
            "--audit-file": home / "audit.jsonl",
            "--record-dir": home / "relayed",
        }
        arguments = ["edge", "--port", str(edge_port)]
        arguments += [str(part) for pair in files.items() for part in pair]
        world.programs["edge"] = Program("edge", home, arguments)
        world.programs["edge"].start()
        link = self._link("gateway-edge", (LOOPBACK, edge_port))
        key_file = folder / "api-key"
        write_private(key_file, world.api_key.encode())
        init = ["gateway", "init", "--url", f"http://{LOOPBACK}:{world.port(0)}"]
        init += ["--api-key-file", str(key_file), "--dir", str(world.home / "gateway")]
        init += ["--edge", f"{LOOPBACK}:{link}", "--edge-ca-file", str(folder / "edge-ca.pem")]
        init += ["--route", f"docs=http://{LOOPBACK}:{upstream_port}"]
        setup = Program("setup", world.home / "setup", [*init, "--allow-ip", f"{LOOPBACK}/32"])
        setup.start()
        await came_true(lambda: not setup.alive, 60)
        config = world.home / "gateway" / "gateway.yaml"
        assert config.exists(), setup.log.read_text()
        world.secrets.append((world.home / "gateway" / "tunnel-token").read_text().strip())
        given = ["gateway", "--config", str(config)]
        world.programs["gateway"] = Program("gateway", world.home / "gateway", given)
        await world.programs["edge"].ready()
        world.programs["gateway"].start()

    async def _environment(self, api: httpx2.AsyncClient) -> None:
        """Make the environment and its workers' key."""
        world = self.world
        body = {"name": "torture", "config": {"type": "self_hosted"}}
        made = await _post(api, "/v1/environments", body)
        world.environment_id = made["id"]
        found = await _post(api, f"/x/environments/{made['id']}/keys", {"name": "workers"})
        world.environment_key = found["key"]
        world.secrets += [world.environment_key, world.api_key]

    async def _agents(self, api: httpx2.AsyncClient) -> None:
        for name, policy in (("free", "always_allow"), ("asked", "always_ask")):
            agent = await _post(api, "/v1/agents", self._agent(name, policy))
            self.world.agents[name] = agent["id"]

    def _agent(self, name: str, policy: str) -> dict[str, Any]:
        toolset = {
            "type": "agent_toolset_20260401",
            "default_config": {"permission_policy": {"type": policy}},
        }
        probe = {
            "type": "custom",
            "name": "probe",
            "description": "Answers.",
            "input_schema": {"type": "object", "properties": {"nonce": {"type": "string"}}},
        }
        agent: dict[str, Any] = {"name": name, "model": "instant", "tools": [toolset, probe]}
        if self.shape.tunnel:
            config = yaml.safe_load((self.world.home / "gateway" / "gateway.yaml").read_text())
            url = f"https://docs.{config['tunnel_domain']}/mcp"
            allow = {"permission_policy": {"type": "always_allow"}}
            docs = {"type": "mcp_toolset", "mcp_server_name": "docs", "default_config": allow}
            agent["mcp_servers"] = [{"type": "url", "name": "docs", "url": url}]
            agent["tools"].append(docs)
        return agent

    def _worker(self, number: int) -> None:
        world, name = self.world, f"worker.{number}"
        key_file = world.home / f"{name}.key"
        write_private(key_file, world.environment_key.encode())
        home = self._disk(name)
        world.effects(name).mkdir(parents=True)
        world.effects(name).chmod(0o777)
        # Every sandbox has a user of its own.
        (world.effects(name) / "log").touch()
        (world.effects(name) / "log").chmod(0o666)
        server = number % self.shape.servers
        network = closed_network(name) if self.shape.networks else None
        host = network.host if network else LOOPBACK
        link = self._link(f"{name}-server.{server}", (LOOPBACK, world.port(server)), host)
        arguments = ["worker", "--base-url", f"http://{host}:{link}"]
        arguments += ["--environment-id", world.environment_id]
        arguments += ["--environment-key-file", str(key_file), "--state-dir", str(home)]
        arguments += ["--max-idle-s", "1", "--lease-ttl-s", "10", "--warm-min", "0"]
        arguments += ["--warm-max", "0", "--snapshots", "off", "--hibernate-after-s", "2"]
        arguments += ["--freeze-after-s", "1", "--provider", self.shape.provider]
        # A full disk is to be met, and not waited out.
        arguments += ["--reserve-disk-bytes", "0"]
        arguments += ["--mounts", f"{world.effects(name)}:/effects:rw", "--drain-s", "5"]
        under: list[str] = []
        if network is not None:
            world.networks[name] = network
            arguments.append("--allow-plaintext")
            under = network.inside
        world.programs[name] = Program(name, home, arguments, under=under)
        world.programs[name].start()


async def _post(api: httpx2.AsyncClient, path: str, body: Any) -> Any:
    answer = await api.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _mount(folder: Path) -> bool:
    from tests.torture.networks import run

    return run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "torture", str(folder))


def _unmount(folder: Path) -> None:
    from tests.torture.networks import run

    run("umount", "-l", str(folder))
