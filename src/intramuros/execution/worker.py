"""The worker process: everything is built here, top to bottom, and then runs until stopped.

Outbound only. Credentials stay in this process: sandboxes get tool names and arguments.
"""

import random
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread

from intramuros.execution.acts import SILENT, Acts
from intramuros.execution.calls import Bench, CustomTool
from intramuros.execution.client import ControlPlane, Work
from intramuros.execution.desk import SOCKET, Desk
from intramuros.execution.egress.netns import probe as probe_network
from intramuros.execution.egress.station import Ground, Station
from intramuros.execution.egress.upstream import (
    Dialler,
    Resolver,
    client_context,
    system_resolver,
)
from intramuros.execution.figures import Figures
from intramuros.execution.furnish import furnish
from intramuros.execution.hands import Hands
from intramuros.execution.journal import Journal
from intramuros.execution.loopback import doorstep, local_port
from intramuros.execution.memory import MemoryTerms
from intramuros.execution.outflow.gate import Gate, open_gate
from intramuros.execution.outflow.policy import PLUGIN_ENTRY_POINTS, default_policy, read_policy
from intramuros.execution.poll import Poller
from intramuros.execution.pool import Size, WarmPool
from intramuros.execution.record import Record, RecordFailed
from intramuros.execution.resting import Resort
from intramuros.execution.room import Reserve, Room
from intramuros.execution.sandbox.base import Level, Provider, SandboxSpec
from intramuros.execution.server import Server
from intramuros.execution.session import Item
from intramuros.execution.settings import WorkerSettings
from intramuros.execution.skills import Skills
from intramuros.execution.snapshots.catalogue import Catalogue
from intramuros.execution.snapshots.keys import Keyring
from intramuros.execution.snapshots.ledger import Ledger
from intramuros.execution.snapshots.shelf import Shelf
from intramuros.execution.snapshots.sleeper import Sleeper
from intramuros.execution.snapshots.sleeper import Terms as SleepTerms
from intramuros.execution.status import Board
from intramuros.execution.terms import Terms
from intramuros.execution.visible import check_hidden
from intramuros.execution.vitals import Sources, Tally, Vitals
from intramuros.execution.wake import Bell, Doorbell, read_secret
from intramuros.execution.web.client import WebCallClient
from intramuros.execution.web.errands import Errands
from intramuros.execution.web.ways import Outside
from intramuros.execution.wrapped.config import read_servers
from intramuros.execution.wrapped.tools import InSandbox, Wrapping
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop, Task, run_service, settle
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, SystemClock
from intramuros.protocol.events import SANDBOX_TOOLS, SERVER_TOOLS

if TYPE_CHECKING:
    from intramuros.execution.ssh.bulletin import Bulletin

log = logger("worker")

TOOL_ENTRY_POINTS: Final = "intramuros.tools"
_CLOSE_S: Final = 20.0


async def serve_worker(
    settings: WorkerSettings,
    *,
    provider: Provider,
    ready: Callable[[str], None],
    clock: Clock | None = None,
    stop: Stop | None = None,
    resolver: Resolver = system_resolver,
) -> None:
    """Run one worker until it is stopped, or with ``once`` until the queue is empty.

    Args:
        settings: what the operator decided.
        provider: makes the sandboxes; started, swept and closed here.
        ready: told the environment's id, or ``pool``, once polling works.
        clock: the system's when None.
        stop: for callers that stop the worker themselves; signals always do.
        resolver: turns the names that sandboxes may reach into addresses.

    Raises:
        OperatorError: the installation cannot work; nothing half-made stays behind.
    """
    settings.checked()
    clock = clock or SystemClock()
    key = settings.environment_key()
    custom, wrapping = _tools(settings, clock)
    worker_id = f"{socket.gethostname()}-{secrets.token_hex(6)}"
    async with AsyncExitStack() as stack:
        try:
            journal = Journal(settings.state_dir / "journal")
        except OSError as error:
            raise OperatorError(
                f"cannot use the state directory {settings.state_dir} ({error.strerror})",
                "name one with --state-dir that this user may write",
            ) from error
        gate = _gate(settings)
        server = settings.server()
        known = [key, *(server.proxy.secrets() if server.proxy else ()), *wrapping.secrets]
        gate.learn("worker", [*known, *_wake_secret(settings)])
        record = Record(settings.audit_path(), clock)
        stack.callback(record.close)
        await _start_provider(provider, stack)
        station = await _open_station(settings, provider, record, resolver, stack)
        furnished = await to_thread.run_sync(furnish, settings, provider)
        pool = _pool(settings, furnished.spec, provider, station, clock)
        resort, keys = await _open_resort(settings, provider, record, worker_id)
        hands = Hands(
            provider,
            furnished.spec,
            random.random,
            keep=settings.keep_idle_sandboxes,
            captures=station.captures if station else None,
            pool=pool,
            resort=resort,
        )
        stack.push_async_callback(_shielded, hands.aclose)
        control = ControlPlane(server, settings.environment_id, key, worker_id)
        stack.push_async_callback(_shielded, control.aclose)
        try:
            await record.write(
                "worker.start",
                environment_id=settings.environment_id,
                worker_id=worker_id,
                provider=provider.name,
                isolation=provider.capabilities.isolation,
                image=furnished.image,
            )
        except RecordFailed as error:
            raise OperatorError(str(error), "free space on the disk of the audit file") from error
        skills = Skills(settings.state_dir / "skills", record, random.random)
        bench = Bench(
            hands,
            journal,
            record,
            custom,
            settings.call_timeout_s,
            clock,
            random.random,
            skills,
            gate,
        )
        terms = Terms(
            settings.max_idle_s,
            settings.lease_ttl_s,
            _memory_terms(settings),
            server,
            settings.state_dir / "files",
            settings.freeze_after_s,
            station,
            Figures([*SANDBOX_TOOLS, *custom], clock),
        )
        record.heard, gate.heard = terms.figures.recorded, terms.figures.checked
        desk = Desk(settings.state_dir / SOCKET, Acts(hands, resort, keys).table(), record, SILENT)
        asking = partial(WebCallClient, server, key, worker_id)
        errands = _errands(settings, bench, asking, resolver, stack)
        news = _bulletin(settings, server, key, bench, stack)
        parts = _Parts(control, bench, terms, desk, errands, wrapping, news)
        await _run(settings, parts, ready, stop)


def _tools(
    settings: WorkerSettings, clock: Clock
) -> tuple[Mapping[str, CustomTool | InSandbox], Wrapping]:
    """Return the tools that agents declare, and what keeps those of MCP servers."""
    plugged = load_tools(settings.custom_tools, entry_points(group=TOOL_ENTRY_POINTS))
    taken = [*SANDBOX_TOOLS, *SERVER_TOOLS, *plugged]
    servers = read_servers(settings.mcp_servers, taken)
    for mount in settings.spec().mounts:
        check_hidden(mount.source, [file for server in servers for file in server.files])
    wrapping = Wrapping(servers, clock)
    return {**plugged, **wrapping.tools}, wrapping


def _pool(
    settings: WorkerSettings,
    spec: SandboxSpec,
    provider: Provider,
    station: Station | None,
    clock: Clock,
) -> WarmPool:
    if station is not None:
        spec = replace(spec, egress="names", trust=station.trust)
    # What empties the queue and goes has nobody to wait for.
    size = Size(0, 0) if settings.once else Size(settings.warm_min, settings.warm_max)
    return WarmPool(provider, spec, size, clock, _room(settings).free)


def _gate(settings: WorkerSettings) -> Gate:
    policy = (
        default_policy()
        if settings.outflow_policy is None
        else read_policy(settings.outflow_policy, entry_points(group=PLUGIN_ENTRY_POINTS))
    )
    return open_gate(policy, settings.state_dir / "outflow.key")


def _memory_terms(settings: WorkerSettings) -> MemoryTerms | None:
    if settings.memory_sync_s == 0:
        return None
    return MemoryTerms(settings.state_dir / "memory", settings.memory_sync_s)


@dataclass(frozen=True)
class _Parts:
    """What a worker is made of."""

    control: ControlPlane
    bench: Bench
    terms: Terms
    desk: Desk
    errands: Errands | None
    wrapping: Wrapping
    news: "Bulletin | None"


async def _run(
    settings: WorkerSettings, parts: _Parts, ready: Callable[[str], None], stop: Stop | None
) -> None:
    control, bench, terms = parts.control, parts.bench, parts.terms
    board = Board(bench.clock)
    finished = stop or Stop()
    tally = Tally()

    async def serve(work: Work) -> None:
        item = Item(control, work, bench, terms, finished)
        name = f"item {work.work_id}"
        board.put(name, lambda: item.doing)
        tally.begin()
        outcome = "failed"
        try:
            outcome = await item.serve()
            log.info("item_ended", work_id=work.work_id, outcome=outcome)
        finally:
            tally.end(outcome)
            board.remove(name)

    queue = terms.figures.queue(control)
    poller = Poller(queue, serve, settings.concurrency, bench.clock, random.random)
    poller.crowded = _room(settings).lack
    doorbell = _doorbell(settings, poller, bench.clock)
    about = {"provider": settings.provider, "isolation": bench.hands.isolation}
    sources = Sources(tally, bench.hands, poller.crowded, finished, terms.figures, about)
    board.put("poll", lambda: poller.doing)

    def tell() -> None:
        tally.ready = True
        log.info("worker_ready", environment_id=settings.environment_id)
        ready(settings.environment_id or "pool")

    async def poll(stop: Stop) -> None:
        await poller.loop(
            stop,
            once=settings.once,
            reclaim_older_than_ms=settings.reclaim_older_than_ms,
            ready=tell,
        )
        stop.request()

    tasks = {"poll": poll, **doorbell, **_beside(settings, parts, board)}
    settle()
    async with AsyncExitStack() as stack:
        at = local_port(settings.metrics_listen, "metrics_listen")
        if at is not None:
            # Around everything: it answers while the worker drains, too.
            await stack.enter_async_context(Vitals(at, sources).opened())
        await run_service(tasks, drain_s=settings.drain_s, stop=finished)


def _wake_secret(settings: WorkerSettings) -> list[str]:
    file = settings.wake_secret_file
    return [] if file is None else [read_secret(file)]


def _doorbell(settings: WorkerSettings, poller: Poller, clock: Clock) -> dict[str, Task]:
    """Return what wakes the poll loop, if it is to sleep at all."""
    at = local_port(settings.wake_listen, "wake_listen")
    if at is None:
        return {}
    (secret,) = _wake_secret(settings)
    bell = Bell(clock, settings.wake_poll_s)
    poller.asleep = bell.sleep
    return {"wake": Doorbell(at, secret, bell, clock).serve}


def _beside(settings: WorkerSettings, parts: _Parts, board: Board) -> dict[str, Task]:
    """Return what runs beside polling."""
    bench = parts.bench
    tasks: dict[str, Task] = {"limits": bench.hands.watch, "desk": parts.desk.serve}
    if parts.wrapping.needs_running:
        tasks["mcp"] = parts.wrapping.run
    if (errands := parts.errands) is not None:
        tasks["web"] = errands.loop
        board.put("web", lambda: errands.doing)
    door = _door(settings, bench, parts.news)
    if door is not None:
        tasks["ssh"] = door
    if (news := parts.news) is not None:
        tasks["ssh_revoked"] = news.run
        board.put("ssh_revoked", lambda: news.doing)
    status_file = settings.status_file
    if status_file is not None:
        tasks["status"] = lambda stop: board.publish(status_file, stop)
    return tasks


def _errands(
    settings: WorkerSettings,
    bench: Bench,
    asking: Callable[[frozenset[str]], WebCallClient],
    resolver: Resolver,
    stack: AsyncExitStack,
) -> Errands | None:
    """Return what makes the server's web calls, if the operator lets this worker make any."""
    web = settings.web()
    if web is None:
        return None
    client = asking(web.tools)
    stack.push_async_callback(_shielded, client.aclose)
    context = client_context(settings.egress_ca_file)
    dialler = Dialler(context, resolver, proxy=settings.company_proxy())
    outside = Outside(web.own, dialler, bench.record, bench.clock, web.engine_inside)
    if web.engine is not None:
        bench.gate.learn("search", [web.engine.key])
    return Errands(client, outside, web.terms, web.engine, bench.gate, bench.rand)


def _room(settings: WorkerSettings) -> Room:
    return Room(
        Reserve(
            settings.reserve_memory_bytes,
            settings.max_load_per_cpu,
            settings.reserve_disk_bytes,
            settings.state_dir,
        )
    )


def _bulletin(
    settings: WorkerSettings, server: Server, key: str, bench: Bench, stack: AsyncExitStack
) -> "Bulletin | None":
    """Return what hears of revoked certificates, if others than the worker's own are taken."""
    if settings.ssh_listen is None or settings.ssh_trust is None:
        return None
    from intramuros.execution.ssh.bulletin import Bulletin

    made = Bulletin(server, key, bench.clock, settings.ssh_revoked_max_age_s, bench.rand)
    stack.push_async_callback(_shielded, made.aclose)
    return made


def _door(settings: WorkerSettings, bench: Bench, news: "Bulletin | None") -> Task | None:
    """Return what lets people into sandboxes, if the operator wants that."""
    address = doorstep(settings.ssh_listen, settings.state_dir / "ssh" / "socket")
    if address is None:
        return None
    # Most workers have no use for it, and it is large.
    from intramuros.execution.ssh.authority import Authority
    from intramuros.execution.ssh.door import Door, Manner, Trusted
    from intramuros.execution.ssh.revoked import Revoked
    from intramuros.execution.ssh.trust import read_trusted
    from intramuros.execution.ssh.visits import Rooms

    folder = settings.state_dir / "ssh"
    authority = Authority.opened(folder)
    casts = folder / "recordings" if settings.ssh_record else None
    if casts is not None:
        casts.mkdir(mode=0o700, exist_ok=True)
    revoked = Revoked(settings.ssh_revoked)
    manner = Manner(address, folder, settings.ssh_idle_s, settings.ssh_max_s, revoked, news)
    rooms = Rooms(bench.hands.visit, bench.record, bench.clock, casts)
    trusted = (Trusted(authority.public_line), *read_trusted(settings.ssh_trust))
    return Door(manner, authority, trusted, rooms, bench.hands.guests).serve


async def _open_station(
    settings: WorkerSettings,
    provider: Provider,
    record: Record,
    resolver: Resolver,
    stack: AsyncExitStack,
) -> Station | None:
    """Open the way out of sandboxes, if the operator lets there be one.

    Raises:
        OperatorError: he does, and this host or provider cannot hold sandboxes to it.
    """
    own = settings.egress()
    if own is None:
        return None
    if not provider.capabilities.egress:
        raise OperatorError(
            f"sandboxes of {provider.name!r} cannot be held to names of hosts",
            "use bubblewrap, or leave egress_allow out",
        )
    found = await to_thread.run_sync(probe_network)
    if found.level is not Level.OK:
        raise OperatorError(found.what, found.fix)
    ground = Ground(
        settings.state_dir / "egress",
        own,
        Dialler(client_context(settings.egress_ca_file), resolver, proxy=settings.company_proxy()),
        settings.concurrency + settings.keep_idle_sandboxes,
        settings.egress_scrub,
        settings.egress_limits(),
    )
    return await stack.enter_async_context(Station.opened(ground, record, record.clock))


async def _open_resort(
    settings: WorkerSettings, provider: Provider, record: Record, worker_id: str
) -> tuple[Resort | None, Keyring | None]:
    """Open the place where sandboxes are put away; none where they cannot be, or must not.

    Raises:
        OperatorError: the place or its keys cannot be used.
    """
    if settings.snapshots == "off" or not provider.capabilities.snapshots:
        return None, None
    place = settings.snapshots or str(settings.state_dir / "snapshots")
    keys = settings.snapshot_key_file or settings.state_dir / "snapshot-keys.json"

    def opened() -> tuple[Sleeper, Keyring]:
        ring = Keyring.open(keys)
        terms = SleepTerms(worker_id, settings.snapshot_max_bytes, settings.snapshot_expire_s)
        ledger = Ledger(settings.state_dir / "awake")
        return Sleeper(Catalogue(Shelf.open(place), ring), ledger, record, terms), ring

    sleeper, ring = await to_thread.run_sync(opened)
    shared = bool(settings.snapshots)
    return Resort(sleeper, record.clock, shared, settings.hibernate_after_s), ring


async def _start_provider(provider: Provider, stack: AsyncExitStack) -> None:
    await provider.start()
    stack.push_async_callback(_shielded, provider.aclose)
    swept = await provider.sweep()
    if swept:
        log.info("swept", sandboxes=len(swept))


async def _shielded(close: Callable[[], Awaitable[None]]) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(_CLOSE_S):
        await close()


def load_tools(names: Iterable[str], installed: Iterable[EntryPoint]) -> Mapping[str, CustomTool]:
    """Return the plug-in tools that the operator named.

    Raises:
        OperatorError: one is not installed, cannot be loaded, or has a built-in's name.
    """
    known = {point.name: point for point in installed}
    tools: dict[str, CustomTool] = {}
    for name in names:
        if name in SANDBOX_TOOLS or name in SERVER_TOOLS:
            raise OperatorError(f"custom tool {name!r} has a built-in's name", "rename it")
        if name not in known:
            raise OperatorError(
                f"custom tool {name!r} is not installed",
                f"install the package that offers it as {TOOL_ENTRY_POINTS!r}",
            )
        try:
            tool = known[name].load()
        except Exception as error:
            raise OperatorError(
                f"custom tool {name!r} cannot be loaded ({error})", "repair or remove its package"
            ) from error
        if not callable(tool):
            raise OperatorError(f"custom tool {name!r} is not callable", "see its documentation")
        tools[name] = tool
    return tools
