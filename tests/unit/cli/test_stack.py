import socket
from pathlib import Path

import pytest
from cryptography import x509

from intramuros.cli.layout import Layout
from intramuros.cli.stack import Plan, Stack, check_port, free_ports
from intramuros.cli.supervise import Program, supervising
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock

pytestmark = pytest.mark.anyio


def plan(tmp_path: Path, **more: object) -> Plan:
    layout = Layout(tmp_path / "data")
    layout.create()
    members = {"layout": layout, "host": "127.0.0.1", "port": 1, "edge_port": 2, **more}
    return Plan(**members)  # type: ignore[arg-type]  # test brevity


def test_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=f"127.0.0.1:{port} .*--port"):
            check_port("127.0.0.1", port, "--port")
    assert check_port("127.0.0.1", port, "--port") == port
    assert check_port("127.0.0.1", 0, "--port") > 0
    assert len(set(free_ports("127.0.0.1", 5))) == 5
    with pytest.raises(OperatorError, match=r"cannot listen on 192\.0\.2\.1"):
        check_port("192.0.2.1", 0, "--port")


async def test_the_edges_certificate_is_made_once(tmp_path: Path) -> None:
    async with supervising(SystemClock(), lambda: 0.0, tmp_path) as supervisor:
        stack = Stack(plan(tmp_path), supervisor)
        stack.prepare()
        pem = (stack.plan.layout.edge / "cert.pem").read_bytes()
        ca = x509.load_pem_x509_certificate((stack.plan.layout.edge / "ca.pem").read_bytes())
        x509.load_pem_x509_certificate(pem).verify_directly_issued_by(ca)
        stack.prepare()
        assert (stack.plan.layout.edge / "cert.pem").read_bytes() == pem


class Listener:
    """Stands where the supervisor does, and remembers what it was asked to start."""

    def __init__(self) -> None:
        self.programs: list[Program] = []

    async def start(self, program: Program) -> str:
        self.programs.append(program)
        return "here"


async def test_who_gets_which_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_UPSTREAM_API_KEY", "model-key")
    monkeypatch.setenv("INTRAMUROS_BOOTSTRAP_API_KEY", "first-key")
    listener = Listener()
    stack = Stack(plan(tmp_path, model_api_key="flag-key"), listener)  # type: ignore[arg-type]  # as above
    await stack.start_server()
    await stack.start_edge()
    await stack.start_worker("env_1")
    await stack.start_gateway()
    server, *others = listener.programs
    assert server.env["INTRAMUROS_MODEL_API_KEY"] == "flag-key"
    assert server.env["INTRAMUROS_BOOTSTRAP_API_KEY"] == "first-key"
    shown = " ".join(word for program in listener.programs for word in program.argv)
    assert not any(secret in shown for secret in ("model-key", "flag-key", "first-key"))
    assert all(not program.env for program in others)
    assert stack.plan.layout.address() == stack.plan.url
