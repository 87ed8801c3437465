"""Plants every secret of an installation, runs it, and looks for them wherever they must not be.

Each secret holds one of a few marks; whoever cannot be given the secrets themselves, like the
sandbox, is searched for marks. Decoys show that each search would find something.
"""

import base64
import json
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic

from intramuros.cli.stack import free_ports
from tests.drives import content
from tests.e2e.rig import Command, assert_nothing_left, eventually, running
from tests.fakes.messages_server import FakeMessages
from tests.hosts import needs_sandboxes
from tests.wire.test_vault_secrets import forms

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

MARK = "pl4nt3d"
API_KEY = f"sk-ant-api03-{MARK}-bootstrap-0f8a61c2d94be375aa"
MODEL_KEY = f"sk-ant-api03-{MARK}-model-77d1e04b9c25f8a36b"
VAULT_TOKEN = f"{MARK}-vault-bearer-c51e7a90d2"
VAULT_VALUE = f"{MARK}-vault-value-93b60fd814"
# 32 bytes whose text in base64 holds the mark.
MASTER_KEY = f"{MARK}MasterKey".ljust(43, "A") + "="
DECOY = f"{MARK}-decoy-4417be02"
DECOY_KEY = "sk-ant-oat01-decoy0decoy0decoy0decoy0"

# Classes in brackets: the search must not find itself in its own command line.
PATTERN = r"pl4n[t]3d|sk-ant-o[a]t01-|ey[J][A-Za-z0-9_-]{8,}\.ey[J]|-----BEGIN [A-Z ]*PRIVATE [K]EY"
LOOK = f"""cd /workspace
printf 'pl4n%s-decoy-4417be02' t3d > decoy-1; printf 'sk-ant-o%s' at01-{DECOY_KEY[13:]} > decoy-2
DECOY="$(cat decoy-1)" sleep 5 & sleep 0.2
grep -rlaE '{PATTERN}' / --exclude-dir={{proc,sys,dev,usr,lib,lib64,bin,sbin,python}} 2>/dev/null
grep -laE '{PATTERN}' /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | sed 's:[0-9][0-9]*:N:'
env | grep -aE '{PATTERN}'; mount | grep -aE '{PATTERN}'; echo looked"""


@dataclass
class Kept:
    """What was found where, by a name for each place."""

    processes: dict[str, bytes] = field(default_factory=dict)
    places: dict[str, bytes] = field(default_factory=dict)


def found(secrets: Mapping[str, str], places: Mapping[str, bytes]) -> set[tuple[str, str]]:
    """Return which secret is in which place, in whatever form."""
    shapes = {shape: name for name, text in secrets.items() for shape in forms(text)}
    # The master key is used as the bytes that its text stands for.
    if "master key" in secrets:
        shapes[base64.b64decode(secrets["master key"])] = "master key"
    return {
        (name, where)
        for where, data in places.items()
        for shape, name in shapes.items()
        if shape in data
    }


def all_processes() -> dict[str, bytes]:
    """Return command line and environment of every process that may be looked at."""
    taken = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        for what in ("cmdline", "environ"):
            try:
                taken[f"{what} {entry.name}"] = (entry / what).read_bytes()
            except OSError:
                continue
    return taken


def files(directory: Path) -> dict[str, bytes]:
    """Return every file below a directory, by its relative path; links are named, not followed."""
    taken = {}
    os.sync()  # of what a sandbox wrote to its drive, the file may have nothing yet
    for path in sorted(directory.rglob("*")):
        where = str(path.relative_to(directory))
        if path.is_symlink():
            taken[where] = os.fsencode(path.readlink())
        elif path.is_file():
            try:
                taken[where] = content(path)
            except FileNotFoundError:  # a temporary file
                continue
    return taken


@dataclass
class Installation:
    """A running ``up`` with a gateway, and clients of it."""

    data: Path
    up: Command
    api: Anthropic
    edge: str
    key_file: Path

    def cli(self, *arguments: object) -> Command:
        """Run one command against it to its end."""
        where = ("--url", self.api.base_url, "--api-key-file", self.key_file)
        with running(*arguments, *where) as command:
            assert command.wait(60) == 0, command.output
        return command


@pytest.fixture
def data(tmp_path: Path) -> Path:
    needs_sandboxes()
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "master-key").write_text(f"{MASTER_KEY}\n")
    (data / "master-key").chmod(0o600)
    return data


def installation(data: Path, model_url: str) -> Iterator[Installation]:
    key_file = data.parent / "operator" / "key"
    key_file.parent.mkdir(mode=0o700)
    key_file.write_text(API_KEY)
    key_file.chmod(0o600)
    port, edge_port = free_ports("127.0.0.1", 2)
    arguments = ("--port", port, "--edge-port", edge_port, "--model-base-url", model_url)
    secrets = {
        "INTRAMUROS_BOOTSTRAP_API_KEY": API_KEY,
        "ANTHROPIC_UPSTREAM_API_KEY": MODEL_KEY,
        "INTRAMUROS_LOG_LEVEL": "debug",
        "INTRAMUROS_WEBHOOK_NETWORKS": "127.0.0.0/8",
    }
    with running("up", "--data-dir", data, *arguments, **secrets) as up:
        up.until("ready ")
        url = f"http://127.0.0.1:{port}"
        with Anthropic(base_url=url, api_key=API_KEY, max_retries=0) as api:
            yield Installation(data, up, api, f"127.0.0.1:{edge_port}", key_file)
        up.interrupt()
        up.wait(60)


def start_gateway(here: Installation) -> tuple[Any, Command]:
    """Set a gateway up like an operator does; return it, not yet entered, and what setup said."""
    tunnel = here.api.beta.tunnels.create(display_name="T")
    gateway = here.data / "gateway"
    said = here.cli(
        *("gateway", "init", tunnel.id, "--edge", here.edge, "--dir", gateway),
        *("--route", "docs=http://127.0.0.1:9", "--allow-ip", "127.0.0.1/32"),
        *("--edge-ca-file", here.data / "edge" / "ca.pem"),
    )
    config = gateway / "gateway.yaml"
    return running("gateway", "--config", config, INTRAMUROS_LOG_LEVEL="debug"), said


def listen(here: Installation) -> str:
    """Have webhooks of sessions sent to nobody, signed all the same; return the secret."""
    body = {"url": "https://127.0.0.1/", "enabled_events": ["session.status_run_started"]}
    beta: Any = {"headers": {"anthropic-beta": "webhooks-2026-10-07"}}
    made: Any = here.api.post("/v1/webhooks", body=body, options=beta, cast_to=object)
    return str(made["signing_secret"]).removeprefix("whsec_")


def run_session(here: Installation) -> str:
    """Run one session, with a vault, to its end; return its id."""
    api = here.api
    vault = api.beta.vaults.create(display_name="V").id
    static: Any = {"type": "static_bearer", "mcp_server_url": "http://127.0.0.1:9/mcp"}
    api.beta.vaults.credentials.create(vault, auth={**static, "token": VAULT_TOKEN})
    value: Any = {
        "type": "environment_variable",
        "secret_name": "KEY",
        "secret_value": VAULT_VALUE,
        "networking": {"type": "unrestricted"},
    }
    api.beta.vaults.credentials.create(vault, auth=value)
    allow = {"permission_policy": {"type": "always_allow"}}
    tools: Any = [{"type": "agent_toolset_20260401", "default_config": allow}]
    agent = api.beta.agents.create(name="A", model="claude-x", tools=tools).id
    environment = (here.data / "worker" / "environment-id").read_text().strip()
    message: Any = {"type": "user.message", "content": [{"type": "text", "text": "look"}]}
    session = api.beta.sessions.create(
        agent=agent, environment_id=environment, vault_ids=[vault], initial_events=[message]
    ).id
    eventually(
        lambda: any(e.type == "agent.message" for e in api.beta.sessions.events.list(session)),
        *(60, "the session's answer"),
    )
    return session


def wrong_modes(data: Path, secrets: Mapping[str, Path]) -> list[str]:
    """Return what others may read: directories of ours not 0700, secrets not 0600."""
    directories = [data, *(p for p in data.iterdir() if p.is_dir() and not p.is_symlink())]
    wrong = [str(p) for p in directories if stat.S_IMODE(p.stat().st_mode) != 0o700]
    wrong += [str(p) for p in secrets.values() if stat.S_IMODE(p.stat().st_mode) != 0o600]
    return wrong


def test_the_searches_find_decoys(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o700)
    for name, form in enumerate(sorted(forms(DECOY))):
        (tmp_path / "d" / str(name)).write_bytes(b"{" + form + b"}")
    kept = files(tmp_path)
    assert found({"decoy": DECOY}, kept) == {("decoy", where) for where in kept}
    assert found({"master key": MASTER_KEY}, {"raw": base64.b64decode(MASTER_KEY)})
    with running("up", "--no-such-flag", DECOY, SECRET=DECOY) as command:
        eventually(
            lambda: (
                {w.split()[0] for _, w in found({"decoy": DECOY}, all_processes())}
                == {"cmdline", "environ"}
            ),
            *(60, "a process's arguments and environment"),
        )
        command.wait(60)
    (tmp_path / "d" / "open").touch(mode=0o644)
    (tmp_path / "d").chmod(0o755)
    tmp_path.chmod(0o700)
    assert wrong_modes(tmp_path, {"open": tmp_path / "d" / "open"}) == [
        str(tmp_path / "d"),
        str(tmp_path / "d" / "open"),
    ]


async def test_no_secret_is_anywhere_it_need_not_be(data: Path) -> None:
    kept = Kept()
    pids: dict[str, str] = {}
    looked = threading.Event()

    def policy(body: dict[str, Any]) -> list[dict[str, Any]]:
        if not any(message["role"] == "assistant" for message in body["messages"]):
            look = {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": LOOK}}
            return [look]
        # The sandbox still lives, and its worker waits for us.
        kept.processes = all_processes()
        for file in (data / "run").glob("*.pid"):
            pids[file.read_text().strip()] = file.stem
        looked.set()
        return [{"type": "text", "text": "done"}]

    fake = FakeMessages(policy)
    async with fake.running() as model_url:
        secrets, own = _play(data, model_url, kept, pids)
    assert looked.is_set()
    assert fake.headers
    assert all(MODEL_KEY in str(headers) for headers in fake.headers), "it was in use"
    assert MARK not in str(fake.bodies).replace(DECOY, "")

    where = {(name, _named(place, pids)) for name, place in found(secrets, kept.processes)}
    needed = {(key, f"environ {p}") for key in ("API key", "model key") for p in ("up", "server")}
    assert where == needed
    places = found(secrets, kept.places)
    assert places == {(name, f"{when} {path}") for name, path in own.items() for when in _WHENS}
    # The searches did look where secrets would be.
    decoys = {place for _, place in found({"decoy": DECOY}, kept.places)}
    assert any(place.startswith("live worker/sandboxes/") for place in decoys)
    names = {f"live {name}" for name in ("intramuros.db", "intramuros.db-wal", "log/server.log")}
    names |= {f"live {name}/audit.jsonl" for name in ("worker", "gateway", "edge")}
    assert names <= set(kept.places)
    assert_nothing_left(data)


_WHENS = ("live", "after")


def _named(place: str, pids: Mapping[str, str]) -> str:
    what, _, pid = place.partition(" ")
    return f"{what} {pids.get(pid, pid)}"


def _play(
    data: Path, model_url: str, kept: Kept, pids: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Run everything; return all secrets, and the file that each may be in."""
    own = {
        "master key": "master-key",
        "environment key": "worker/environment-key",
        "tunnel token": "gateway/tunnel-token",
        "gateway's private key": "gateway/tls.key",
        "CA's private key": "gateway/ca.key",
        "edge's private key": "edge/key.pem",
    }
    said: dict[str, Command] = {}
    for here in installation(data, model_url):
        pids[str(here.up.process.pid)] = "up"
        gateway, said["init"] = start_gateway(here)
        with gateway as process:
            process.until("ready ")
            signing = listen(here)
            session = run_session(here)
            said |= {
                "trace": here.cli("session", "trace", session),
                "trace --json": here.cli("session", "trace", session, "--json"),
                "show": here.cli("session", "show", session),
                "gateway": process,
                "up": here.up,
            }
            # While it runs: the write-ahead log of the database is a file too.
            kept.places |= {f"live {name}": text for name, text in files(data).items()}
            texts = {name: _secret(data / file) for name, file in own.items()}
            assert wrong_modes(data, {name: data / file for name, file in own.items()}) == []
            process.interrupt()
            process.wait(60)
    kept.places |= {f"after {name}": text for name, text in files(data).items()}
    kept.places |= {f"output of {name}": c.output.encode() for name, c in said.items()}
    _check_sandbox(said["trace --json"].output)
    others = {"API key": API_KEY, "model key": MODEL_KEY}
    assert b"webhook_failed" in kept.places["live log/server.log"], "it was in use"
    others |= {"signing secret": signing}
    others |= {"vault token": VAULT_TOKEN, "vault value": VAULT_VALUE}
    return {**texts, **others}, own


def _secret(file: Path) -> str:
    """Return what is secret in a key file: of PEM, the first line of the body."""
    lines = file.read_text().strip().splitlines()
    return lines[1] if lines[0].startswith("-----BEGIN") else lines[0]


def _check_sandbox(trace: str) -> None:
    """What a search from inside found: the decoys, and nothing else."""
    events = [json.loads(line) for line in trace.splitlines() if line.startswith("{")]
    [result] = [e for e in events if e["type"] in ("agent.tool_result", "user.tool_result")]
    lines = result["content"][0]["text"].split()
    # In a directory's own order; that every place was gone through is the last word.
    found = {"/workspace/decoy-1", "/workspace/decoy-2", "/proc/N/environ"}
    assert (len(lines), set(lines[:-1]), lines[-1]) == (4, found, "looked")
