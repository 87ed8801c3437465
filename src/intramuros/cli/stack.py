"""All programs of one data directory, each its own process: what ``up`` and ``demo`` start."""

import json
import socket
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from intramuros.cli.api import read_key
from intramuros.cli.failures import one_line
from intramuros.cli.layout import Layout
from intramuros.cli.options import imported
from intramuros.cli.supervise import Program, Supervisor, command
from intramuros.kernel.config import environment
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

CERTS: Final = "intramuros.tunnel.certs"
ENVIRONMENT_NAME: Final = "local"
# Settings of the server that may come from the environment of `up`.
_PASSED_ON: Final = (
    "INTRAMUROS_BOOTSTRAP_API_KEY",
    "INTRAMUROS_BASE_DOMAIN",
    "INTRAMUROS_DATABASE_URL",
    "INTRAMUROS_LENIENT",
    "INTRAMUROS_MODEL_BASE_URL",
    "INTRAMUROS_MODEL_API_KEY",
    "INTRAMUROS_WEBHOOK_CA_FILE",
    "INTRAMUROS_WEBHOOK_NETWORKS",
    "INTRAMUROS_WEBHOOK_PORTS",
    "ANTHROPIC_UPSTREAM_BASE_URL",
    "ANTHROPIC_UPSTREAM_API_KEY",
)


@dataclass(frozen=True)
class Plan:
    """What to start, and where. Ports are real ones, never 0."""

    layout: Layout
    host: str
    port: int
    edge_port: int | None
    model_base_url: str | None = None
    model_api_key: str | None = field(default=None, repr=False)
    model_scripts: Path | None = None
    mounts: tuple[str, ...] = ()
    record_dir: Path | None = None
    """The edge writes everything it relays to files here."""
    stop_s: float = 8.0
    """Seconds that each program has to finish what it does."""

    @property
    def url(self) -> str:
        """Address of the server."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{shown}:{self.port}"

    @property
    def edge(self) -> str:
        """Address of the edge."""
        return f"{self.host}:{self.edge_port}"


def check_port(host: str, port: int, flag: str) -> int:
    """Return the port, or a free one for 0.

    Raises:
        OperatorError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {host}:{port} ({(error.strerror or str(error)).lower()})",
                f"stop what uses it, or choose another with {flag}",
            ) from error
        chosen: int = probe.getsockname()[1]
        return chosen


def free_ports(host: str, count: int) -> list[int]:
    """Return that many different free ports."""
    with ExitStack() as held:
        probes = [held.enter_context(closing(socket.socket())) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in probes]


class Stack:
    """Starts the programs of a plan under a supervisor."""

    def __init__(self, plan: Plan, supervisor: Supervisor) -> None:
        self.plan = plan
        self.supervisor = supervisor

    def prepare(self) -> None:
        """Make the edge's certificate, once; the server must trust it before either starts."""
        edge = self.plan.layout.edge
        if self.plan.edge_port is None or (edge / "key.pem").exists():
            return
        make = imported(CERTS, "tunnel", "make_self_signed_edge")
        write = imported(CERTS, "tunnel", "write_private")
        ca_pem, pair = make(sorted({self.plan.host, "localhost"}), SystemClock().now())
        write(edge / "ca.pem", ca_pem)
        write(edge / "cert.pem", pair.cert_pem)
        write(edge / "key.pem", pair.key_pem)

    async def start_server(self) -> str:
        """Start the control plane and return its address."""
        plan = self.plan
        arguments = ["--data-dir", str(plan.layout.root), "--host", plan.host]
        arguments += ["--port", str(plan.port)]
        if plan.edge_port is not None:
            arguments += ["--edge", plan.edge]
            arguments += ["--edge-ca-file", str(plan.layout.edge / "ca.pem")]
        if plan.model_scripts is not None:
            arguments += ["--model-scripts", str(plan.model_scripts)]
        env = {name: value for name, value in environment().items() if name in _PASSED_ON}
        # In the environment, because other users of this machine can read command lines.
        if plan.model_base_url:
            env["INTRAMUROS_MODEL_BASE_URL"] = plan.model_base_url
        if plan.model_api_key:
            env["INTRAMUROS_MODEL_API_KEY"] = plan.model_api_key
        await self._start("server", arguments, env)
        (plan.layout.run / "address").write_text(f"{plan.url}\n")
        return plan.url

    async def start_edge(self) -> str:
        """Start the edge and return its address."""
        plan, edge = self.plan, self.plan.layout.edge
        arguments = ["--host", plan.host, "--port", str(plan.edge_port)]
        arguments += ["--cert-file", str(edge / "cert.pem"), "--key-file", str(edge / "key.pem")]
        arguments += ["--control-key-file", str(plan.layout.control_key)]
        arguments += ["--audit-file", str(edge / "audit.jsonl")]
        if plan.record_dir is not None:
            arguments += ["--record-dir", str(plan.record_dir)]
        return await self._start("edge", arguments)

    async def start_worker(self, environment_id: str) -> str:
        """Start a worker for an environment whose key lies in the data directory."""
        worker = self.plan.layout.worker
        arguments = ["--base-url", self.plan.url, "--environment-id", environment_id]
        arguments += ["--environment-key-file", str(worker / "environment-key")]
        arguments += ["--state-dir", str(worker), "--ssh-listen", "unix"]
        for mount in self.plan.mounts:
            arguments += ["--mounts", mount]
        return await self._start("worker", arguments)

    async def start_gateway(self) -> str:
        """Start the gateway that was set up in the data directory."""
        config = self.plan.layout.gateway / "gateway.yaml"
        return await self._start("gateway", ["--config", str(config)])

    async def ensure_environment(self, client: "AsyncAnthropic") -> str:
        """Return the id of the local self-hosted environment; make it and its key if needed."""
        worker = self.plan.layout.worker
        id_file, key_file = worker / "environment-id", worker / "environment-key"
        if id_file.exists() and key_file.exists():
            return id_file.read_text().strip()
        made = await client.beta.environments.create(
            name=ENVIRONMENT_NAME, config={"type": "self_hosted"}
        )
        key = await new_environment_key(client, made.id, "local worker")
        write = imported(CERTS, "tunnel", "write_private")
        write(key_file, f"{key}\n".encode())
        write(id_file, f"{made.id}\n".encode())
        return made.id

    def client(self) -> "AsyncAnthropic":
        """Return a client with the installation's first key."""
        from anthropic import AsyncAnthropic

        key = environment().get("INTRAMUROS_BOOTSTRAP_API_KEY")
        key = key or read_key(self.plan.layout.api_key)
        return AsyncAnthropic(base_url=self.plan.url, api_key=key)

    async def _start(
        self, name: str, arguments: list[str], env: Mapping[str, str] | None = None
    ) -> str:
        level = environment().get("INTRAMUROS_LOG_LEVEL")
        program = Program(
            name=name,
            argv=command(name, *arguments),
            log_file=self.plan.layout.log / f"{name}.log",
            stop_s=self.plan.stop_s,
            env={**(env or {}), **({"INTRAMUROS_LOG_LEVEL": level} if level else {})},
        )
        return await self.supervisor.start(program)


async def new_environment_key(client: "AsyncAnthropic", environment_id: str, name: str) -> str:
    """Return a new key of an environment; the server shows it this once.

    Raises:
        OperatorError: the server's answer holds none.
    """
    answer = await client.post(
        f"/x/environments/{environment_id}/keys", body={"name": name}, cast_to=object
    )
    key = answer.get("key") if isinstance(answer, dict) else None
    if not isinstance(key, str):
        raise OperatorError(
            f"the server gave no environment key ({one_line(json.dumps(answer))[:100]})",
            "use an Intramuros server, or make the key in the provider's console",
        )
    return key
