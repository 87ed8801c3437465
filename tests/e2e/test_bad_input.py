"""What an operator gets wrong: one clear line, status 2, and nothing half-made."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from intramuros.kernel.timing import SystemClock
from intramuros.tunnel.certs import make_ca, make_server_certificate
from tests.e2e.rig import (
    Command,
    child_environment,
    demo_software,
    eventually,
    needs_demo,
    running,
)
from tests.fakes.messages_server import FakeMessages, Fault

pytestmark = pytest.mark.timeout(240)


def one_line(command: Command, status: int = 2) -> str:
    """Check that a command ended with one line, and return it."""
    assert command.wait(60) == status, command.output
    errors = [line for line in command.errors if line.startswith("error: ")]
    assert len(errors) == 1, command.output
    assert "Traceback" not in command.output
    return errors[0]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server's address and data directory."""
    data = tmp_path / "data"
    with running("server", "--data-dir", data, "--port", "0") as command:
        command.until("ready ")
        yield command.lines[0].split()[1], data
        command.process.terminate()


def test_a_worker_with_a_wrong_key(server: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = server
    (tmp_path / "key").write_text("sk-ant-oat01-wrong")
    arguments = ("--environment-key-file", tmp_path / "key", "--state-dir", tmp_path / "state")
    with running(
        *("worker", "--base-url", url, "--environment-id", "env_x"), *arguments
    ) as command:
        said = one_line(command)
    assert "wrong" not in said
    assert "key" in said


def test_a_worker_whose_server_is_away(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-ant-oat01-any")
    arguments = ("--environment-key-file", tmp_path / "key", "--state-dir", tmp_path / "state")
    with running(
        *("worker", "--base-url", "http://127.0.0.1:1", "--environment-id", "env_x"), *arguments
    ) as command:
        eventually(
            lambda: "poll_failed" in command.output or command.process.poll() is not None,
            *(60, "a poll that failed"),
        )
        assert command.process.poll() is None, command.output
        assert not any(line.startswith("ready") for line in command.lines)
        command.process.terminate()
        assert command.wait(30) == 0, command.output


def test_a_client_with_a_wrong_key(server: tuple[str, Path]) -> None:
    url, _ = server
    with running("session", "list", "--url", url, INTRAMUROS_API_KEY="sk-wrong") as command:
        assert "does not know this key" in one_line(command)


def test_a_gateway_with_a_bad_certificate(server: tuple[str, Path], tmp_path: Path) -> None:
    url, data = server
    who = ("--url", url, "--api-key-file", str(data / "api-key"))
    with running("tunnel", "create", *who) as command:
        assert command.wait() == 0, command.output
    tunnel_id = command.lines[0].split()[0]
    gateway = tmp_path / "gw"
    where = ("--edge", "127.0.0.1:1", "--route", "bank=http://127.0.0.1:1", "--dir", gateway)
    with running("gateway", "init", tunnel_id, *where, *who) as command:
        assert command.wait() == 0, command.output
    config = gateway / "gateway.yaml"
    tls = yaml.safe_load(config.read_text())["tls"]
    server_pem = gateway / tls["cert_file"]
    good = server_pem.read_text()
    for bad, says in (
        ("nonsense", server_pem.name),
        (_own_certificate(), "certificate"),
    ):
        server_pem.write_text(bad)
        with running("gateway", "--config", config) as command:
            assert says in one_line(command)
    server_pem.write_text(good)
    with running("gateway", "--config", config) as command:
        with pytest.raises(subprocess.TimeoutExpired):
            command.wait(3)
        command.process.terminate()
        assert command.wait(60) == 0, command.output


def _own_certificate() -> str:
    """A good certificate, for something else."""
    now = SystemClock().now()
    ca = make_ca("another", now)
    return make_server_certificate(ca, ["*.example.com"], now).cert_pem.decode()


@needs_demo
def test_the_demo_into_a_directory_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with running("demo", "--data-dir", tmp_path) as command:
        assert "exists already" in one_line(command)
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


def test_the_demo_without_its_software(tmp_path: Path) -> None:
    with running(
        "demo", "--data-dir", tmp_path / "demo", INTRAMUROS_DEMO_UPSTREAM=str(tmp_path)
    ) as command:
        assert "make upstream" in one_line(command)
    assert list(tmp_path.iterdir()) == []


@needs_demo
def test_the_demo_with_a_private_system_that_does_not_start(tmp_path: Path) -> None:
    software = demo_software()
    assert software is not None
    broken = tmp_path / "broken" / "bin"
    broken.mkdir(parents=True)
    for name in ("mcp-proxy", "mcp-server-sqlite"):
        (broken / name).write_text("#!/bin/sh\necho no such database >&2\nexit 1\n")
        (broken / name).chmod(0o755)
    with running(
        "demo", "--data-dir", tmp_path / "demo", INTRAMUROS_DEMO_UPSTREAM=str(broken.parent)
    ) as command:
        assert "bank did not start" in one_line(command)
    assert not (tmp_path / "demo").exists()


@needs_demo
@pytest.mark.anyio
async def test_the_demo_with_a_wrong_model_key(tmp_path: Path) -> None:
    fake = FakeMessages.saying([{"type": "text", "text": "not reached"}])
    fake.faults = [Fault("status", status=401, type="authentication_error")] * 5
    async with fake.running() as base_url:
        arguments = ("--model-base-url", base_url, "--model", "claude-x")
        with running("demo", "--data-dir", tmp_path / "demo", *arguments) as command:
            said = one_line(command, status=1)
    assert "the session ended with" in said
    assert "check ANTHROPIC_UPSTREAM_API_KEY" in command.output
    assert not (tmp_path / "demo").exists()


# A nearly full file system of 1 MiB, in namespaces of its own: nobody needs to be root for it.
SMALL_DISK = """set -e; disk=$1; shift; mount -t tmpfs -o size=1m tmpfs "$disk"
head -c $((960 * 1024)) /dev/zero > "$disk/filler"; exec "$@\""""


def test_a_full_disk(tmp_path: Path) -> None:
    namespaces = ("unshare", "--user", "--map-root-user", "--mount", "--")
    tried = subprocess.run([*namespaces, "true"], check=False, capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"NO NAMESPACES ({tried.stderr.strip()}): a full disk goes untested")
    under = (*namespaces, "sh", "-c", SMALL_DISK, "sh", tmp_path)
    arguments = ("--data-dir", tmp_path / "data", "--port", "0", "--edge-port", "0")
    with running("up", *arguments, under=under) as command:
        said = one_line(command, command.wait(60))
    assert command.process.returncode in (1, 2)
    assert any(word in said for word in ("space", "disk", "full")), command.output
    assert not (tmp_path / "filler").exists(), "it was another disk"


def test_no_command_shows_a_traceback_for_an_unreadable_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "intramuros.cli.main", "server", "--config", str(tmp_path)],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
