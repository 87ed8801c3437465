"""``intramuros demo``: start everything, run the job, show and prove what happened."""

import errno
import json
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from intramuros.cli.crossing import Crossing, checked, crossings
from intramuros.cli.database import control_audit
from intramuros.cli.demo import proofs
from intramuros.cli.demo.data import PACKAGE, Source, lay_out, load_source
from intramuros.cli.demo.figures import MOUNT, TASK, recompute
from intramuros.cli.demo.job import make_agent, make_prober, run_job
from intramuros.cli.demo.perimeter import HOST, LABEL, answers, find_software, private_system
from intramuros.cli.demo.screen import Screen
from intramuros.cli.layout import Layout, locked
from intramuros.cli.stack import Plan, Stack, free_ports
from intramuros.cli.supervise import command, supervising
from intramuros.cli.trace import Event, text_of, trace
from intramuros.kernel import telemetry
from intramuros.kernel.appendlog import read_lines
from intramuros.kernel.config import clean_environment
from intramuros.kernel.errors import DomainError, OperatorError
from intramuros.kernel.service import Stop, run_service
from intramuros.kernel.timing import SystemClock
from intramuros.protocol.audit import BrokenChain, verify

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

SCRIPTS: Final = Path(__file__).parent / "scripts"
SCRIPTED: Final = "scripted/auditor"
PROBE: Final = "scripted/sandbox-probe"
DRAIN_S: Final = 60.0
# The job is done by then; only idle connections are left.
STOP_S: Final = 2.0


class DemoFailed(DomainError):
    """The job ran, but something that the demo claims did not hold."""


@dataclass(frozen=True)
class Wishes:
    """What the caller of the demo wants. ``model`` is an id, or None for the script."""

    data_dir: Path | None
    keep: bool
    model: str | None
    model_base_url: str | None
    model_api_key: str | None


def run_demo(wishes: Wishes) -> None:
    """Run the demo; returns only if everything held.

    Raises:
        OperatorError: this machine cannot run it.
        DomainError: the job failed, or a claim did not hold.
    """
    screen = Screen(SystemClock())
    # What the programs log goes to files; what the demo has to say, it says itself.
    telemetry.configure(json=False, level="error")
    source = load_source()
    find_software()
    failures: list[DomainError] = []
    interrupted: list[str] = []
    with _noting_interrupts(interrupted):
        _play(wishes, _directory(wishes.data_dir), source, screen, failures, interrupted)
    if interrupted:
        raise KeyboardInterrupt
    if failures:
        raise failures[0]


def _play(
    wishes: Wishes,
    directory: Path,
    source: Source,
    screen: Screen,
    failures: list[DomainError],
    interrupted: list[str],
) -> None:
    """Run the job, and take the directory away again unless it is to be kept."""
    try:

        async def task(stop: Stop) -> None:
            if interrupted:
                stop.request()
            async with anyio.create_task_group() as group:

                async def watch() -> None:
                    await stop.wait()
                    screen.say("stopping everything", style="yellow")
                    group.cancel_scope.cancel()

                group.start_soon(watch)
                try:
                    await _Demo(wishes, directory, source, screen).run()
                except DomainError as error:
                    failures.append(error)
                group.cancel_scope.cancel()
            if stop.requested:
                interrupted.append("by a signal")
            stop.request()

        anyio.run(run_service_of, task)
    finally:
        if wishes.keep:
            screen.say(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _noting_interrupts(interrupted: list[str]) -> Iterator[None]:
    """Note Ctrl-C until the service listens for it itself.

    Raised as an exception it could come while a library loads, in a place that drops it.
    """
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.append("before the start"))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def run_service_of(task: Any) -> None:  # noqa: ANN401  a service task
    """Run one task with the two stops of every service."""
    await run_service({"demo": task}, drain_s=DRAIN_S)


def _directory(wish: Path | None) -> Path:
    if wish is None:
        return Path(tempfile.mkdtemp(prefix="intramuros-demo-"))
    if wish.exists():
        raise OperatorError(
            f"{wish} exists already", "name a directory that does not, or leave --data-dir out"
        )
    try:
        wish.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise OperatorError(
            f"cannot make {wish} ({error.strerror})", "name another directory with --data-dir"
        ) from error
    return wish.absolute()


class _Demo:
    """One run of the demo."""

    def __init__(self, wishes: Wishes, directory: Path, source: Source, screen: Screen) -> None:
        self.wishes = wishes
        self.source = source
        self.screen = screen
        self.layout = Layout(directory)
        self.perimeter = lay_out(source, directory / "perimeter")
        port, edge_port, self.bank_port = free_ports(HOST, 3)
        self.relayed = directory / "relayed"
        self.plan = Plan(
            layout=self.layout,
            host=HOST,
            port=port,
            edge_port=edge_port,
            model_base_url=wishes.model_base_url,
            model_api_key=wishes.model_api_key,
            model_scripts=SCRIPTS,
            mounts=(f"{self.perimeter.files}:{MOUNT}",),
            record_dir=self.relayed,
            stop_s=STOP_S,
        )

    async def run(self) -> None:
        """Start, work, show, prove."""
        self._introduce()
        self.layout.create()
        rand = random.SystemRandom().random
        with locked(self.layout):
            async with supervising(
                SystemClock(), rand, self.layout.run, self.screen.supervised
            ) as supervisor:
                stack = Stack(self.plan, supervisor)
                client = await self._start(stack)
                async with client:
                    await self._work(stack, client)

    def _introduce(self) -> None:
        screen, source = self.screen, self.source
        screen.title("Intramuros demo: an agent audits a bank's mortgage decisions")
        screen.say(
            f"data: {len(source.rows)} applications in Boston, package {PACKAGE} {source.version}, "
            f"sha256 {source.sha256[:16]}…"
        )
        if self.wishes.model is None:
            screen.say(
                f"model: {SCRIPTED}, a SCRIPT and no model; loop, tools, sandbox and tunnel are "
                "the real ones.",
                style="yellow",
            )
            screen.say("For a real one set ANTHROPIC_UPSTREAM_API_KEY.", style="yellow")
        else:
            where = self.wishes.model_base_url or "Anthropic"
            screen.say(f"model: {self.wishes.model} at {where}")

    async def _start(self, stack: Stack) -> "AsyncAnthropic":
        screen = self.screen
        screen.title("Every program its own process, all on loopback")
        stack.prepare()
        screen.step("control plane", await stack.start_server())
        screen.step("edge", f"{await stack.start_edge()}, writes down every byte it relays")
        client = stack.client()
        environment_id = await stack.ensure_environment(client)
        screen.step("environment", f"{environment_id} (self-hosted), with a key for the worker")
        await stack.start_worker(environment_id)
        screen.step("worker", f"polls; sandboxes see {self.perimeter.files} as {MOUNT}, read-only")
        log_file = self.layout.log / "bank.log"
        program = private_system(self.perimeter, self.bank_port, log_file)
        bank = await stack.supervisor.start(program)
        screen.step("bank", f"mcp-server-sqlite behind mcp-proxy at {bank}")
        screen.say("(loopback stands in for the bank's network: nobody but the gateway is told)")
        return client

    async def _work(self, stack: Stack, client: "AsyncAnthropic") -> None:
        screen = self.screen
        screen.title("The official SDK as the client")
        tunnel = await client.beta.tunnels.create(display_name="Boston office")
        screen.step("tunnel", f"{tunnel.id}  {tunnel.domain}")
        await self._init_gateway(stack, tunnel.id)
        screen.step("CA", "made inside, its certificate registered on the tunnel")
        screen.step("gateway", f"linked to the edge at {await stack.start_gateway()}")
        host = f"{LABEL}.{tunnel.domain}"
        agent_id = await make_agent(client, self.wishes.model or SCRIPTED, f"https://{host}/mcp")
        screen.step("agent", f"{agent_id}, may read {host}")
        session_id = await self._session(client, agent_id, "Audit of mortgage decisions")
        screen.step("session", session_id)

        screen.title("The job")
        events = await run_job(client, session_id, TASK, screen.event)
        screen.title("Trace")
        model = "a script" if self.wishes.model is None else self.wishes.model
        screen.say(f"brain: {model}; hands: sandbox and tunnel", style="dim")
        screen.trace(trace(events))

        found = self._crossed(session_id)
        screen.title("What crossed the wall, by the records inside it")
        screen.crossed(found)
        screen.title("What held")
        held = await self._prove(client, session_id, events, found, host)
        screen.proofs(held)
        failed = [proof.claim for proof in held if not proof.held]
        if failed:
            raise DemoFailed(f"{len(failed)} of {len(held)} claims did not hold: {failed[0]}")
        screen.title(f"All {len(held)} claims held.")

    async def _session(self, client: "AsyncAnthropic", agent_id: str, title: str) -> str:
        environment_id = (self.layout.worker / "environment-id").read_text().strip()
        made = await client.beta.sessions.create(
            agent=agent_id, environment_id=environment_id, title=title
        )
        return made.id

    async def _init_gateway(self, stack: Stack, tunnel_id: str) -> None:
        """Run ``gateway init``, as its own process, like an operator inside would."""
        arguments = ["gateway", "init", tunnel_id, "--edge", self.plan.edge]
        arguments += ["--route", f"{LABEL}=http://{HOST}:{self.bank_port}"]
        # Loopback is refused unless it is listed: the default is the private ranges.
        arguments += ["--allow-ip", f"{HOST}/32", "--dir", str(self.layout.gateway)]
        arguments += ["--edge-ca-file", str(self.layout.edge / "ca.pem")]
        arguments += ["--url", self.plan.url, "--api-key-file", str(self.layout.api_key)]
        done = await anyio.run_process(
            command(*arguments),
            env=clean_environment(("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH")),
            check=False,
        )
        if done.returncode != 0:
            last = done.stderr.decode(errors="replace").strip().splitlines() or ["no output"]
            raise DemoFailed(f"gateway init failed: {last[-1]}")

    def _records(self, name: str) -> list[dict[str, Any]]:
        try:
            records, _ = checked(read_lines(self.layout.audit_files()[name]))
        except (BrokenChain, KeyError) as error:
            raise DemoFailed(f"the {name}'s record is not whole: {error}") from error
        return records

    def _crossed(self, session_id: str) -> list[Crossing]:
        programs = ("worker", "gateway")
        found = [c for n in programs for c in crossings(n, self._records(n), session_id)]
        return sorted(found, key=lambda crossing: crossing.at)

    async def _prove(
        self,
        client: "AsyncAnthropic",
        session_id: str,
        events: list[Event],
        found: list[Crossing],
        host: str,
    ) -> list[proofs.Proof]:
        worker = self._records("worker")
        probe, probe_events = await self._probe(client)
        places = {
            "the sessions' events": [json.dumps(events + probe_events).encode()],
            "their workspaces": _contents(self.layout.worker / "sandboxes"),
            "what the edge relayed": _contents(self.relayed),
        }
        tunnelled = sum(c.bytes for c in found if c.program == "gateway")
        return [
            proofs.figures(events, recompute(self.source.rows)),
            proofs.calls_recorded(events, worker, found),
            proofs.digests_agree(events, worker),
            await self._chains(),
            proofs.no_credential_inside(self._secrets(), probe, places),
            proofs.no_network_inside(probe, self._addresses()),
            proofs.edge_saw_ciphertext(
                sorted(self.relayed.iterdir()), proofs.needles(events), host, tunnelled
            ),
        ]

    async def _probe(self, client: "AsyncAnthropic") -> tuple[dict[str, Any], list[Event]]:
        """Let the same worker run a probe in a sandbox made like the auditor's."""
        agent_id = await make_prober(client, PROBE)
        session_id = await self._session(client, agent_id, "What a sandbox can see")
        task = f"Look around. addresses: {' '.join(self._addresses())}"
        events = await run_job(client, session_id, task, lambda _: None)
        answer = text_of([e for e in events if e.get("type") == "agent.message"][-1])
        try:
            found = json.loads(answer)
        except ValueError as error:
            raise DemoFailed(f"the probe in the sandbox said: {answer[:200]}") from error
        return found, events

    def _addresses(self) -> list[str]:
        """Return what listens on this machine's loopback, and answers outside of sandboxes."""
        ports = (self.plan.port, self.plan.edge_port, self.bank_port)
        return [f"{HOST}:{port}" for port in ports if port and answers(HOST, port)]

    def _secrets(self) -> dict[str, str]:
        layout = self.layout
        files = {
            "API key": layout.api_key,
            "environment key": layout.worker / "environment-key",
            "tunnel token": layout.gateway / "tunnel-token",
            "gateway's private key": layout.gateway / "tls.key",
            "CA's private key": layout.gateway / "ca.key",
            "edge's private key": layout.edge / "key.pem",
            "master key": layout.root / "master-key",
        }
        found = {name: _secret(file) for name, file in files.items()}
        if self.wishes.model_api_key:
            found["model's key"] = self.wishes.model_api_key
        return found

    async def _chains(self) -> proofs.Proof:
        control = await anyio.to_thread.run_sync(control_audit, self.layout.root)
        lengths = {name: len(self._records(name)) for name in self.layout.audit_files()}
        lengths["control"] = verify(control or []).seq
        held = set(lengths) == {"control", "worker", "gateway", "edge"} and all(lengths.values())
        seen = ", ".join(f"{name} {length}" for name, length in lengths.items())
        return proofs.Proof("the hash chains of all records are whole", held, f"{seen} records")


def _secret(file: Path) -> str:
    """Return the part of a key file that is secret: of PEM, the first line of the body."""
    lines = file.read_text().strip().splitlines()
    return lines[1] if lines[0].startswith("-----BEGIN") else lines[0]


def _contents(directory: Path) -> Iterable[bytes]:
    """Yield what each file below a directory holds; holes, of which drives are full, are none."""
    os.sync()  # what a sandbox has written to its drive may not have got as far as its file
    for file in sorted(directory.rglob("*")):
        if file.is_file() and not file.is_symlink():
            yield b"".join(_extents(file))


def _extents(file: Path) -> Iterable[bytes]:
    with file.open("rb") as opened:
        size, end = os.fstat(opened.fileno()).st_size, 0
        while end < size:
            try:
                start = os.lseek(opened.fileno(), end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            end = os.lseek(opened.fileno(), start, os.SEEK_HOLE)
            yield os.pread(opened.fileno(), end - start, start)
