"""Edge and gateway as processes of their own, as operators run them."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from intramuros.kernel.config import clean_environment
from tests.integration.tunnel.rig import DOMAIN, Rig

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class EdgeProcess:
    """A running edge."""

    running: subprocess.Popen[str]
    port: int
    health_port: int | None


@contextmanager
def process(*arguments: str, open_files: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a command of ours; gives it and what it printed when it was ready."""
    command = [sys.executable, "-m", "intramuros.cli.main", *arguments]
    if open_files:
        command = ["prlimit", f"--nofile={open_files}:{open_files}", *command]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline().removeprefix("ready ").strip()
        finally:
            running.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def edge_process(
    rig: Rig, port: int, *flags: str, audit: str = "edge-audit.jsonl", open_files: int = 0
) -> Iterator[EdgeProcess]:
    """Run an edge; ``--health-port 0`` among the flags takes a free one."""
    files = {
        "--cert-file": "edge.crt",
        "--key-file": "edge.key",
        "--control-key-file": "control.pub",
        "--audit-file": audit,
    }
    health = free_port() if "--health-port" in flags else None
    arguments = [text for flag, name in files.items() for text in (flag, str(rig.home / name))]
    arguments += [str(health) if text == "0" else text for text in flags]
    with process("edge", *arguments, "--port", str(port), open_files=open_files) as found:
        running, address = found
        yield EdgeProcess(running, int(address.rpartition(":")[2]), health)


@contextmanager
def gateway_process(
    rig: Rig,
    edge_port: int | list[int],
    upstream_port: int,
    audit: str = "gateway-audit.jsonl",
    open_files: int = 0,
) -> Iterator[subprocess.Popen[str]]:
    """Run a gateway with one private server and one edge, or several."""
    ports = edge_port if isinstance(edge_port, list) else [edge_port]
    config = {
        "tunnel_domain": DOMAIN,
        "tls": {"cert_file": "tls.crt", "key_file": "tls.key"},
        "routes": {"docs": f"http://127.0.0.1:{upstream_port}"},
        "upstream": {"allowed_ips": ["127.0.0.1"]},
        "edge": [f"127.0.0.1:{port}" for port in ports],
        "edge_ca_file": "edge-ca.crt",
        "token_file": "tunnel-token",
        "control_key_file": "control.pub",
        "audit_file": audit,
    }
    path = rig.write(f"{Path(audit).name}.yaml", yaml.safe_dump(config).encode())
    with process("gateway", "--config", str(path), open_files=open_files) as (running, _):
        yield running
