"""What an operator decides about one worker, read once into one frozen object."""

import ipaddress
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from intramuros.execution.egress.company import CompanyProxy
from intramuros.execution.egress.joiner import DNS_PORT, PROXY_PORT
from intramuros.execution.egress.limits import EgressLimits
from intramuros.execution.egress.names import WEB_PORTS
from intramuros.execution.egress.policy import OwnRules, parse_hosts
from intramuros.execution.loopback import doorstep, is_local, local_port
from intramuros.execution.sandbox.base import Limits, Mount, SandboxSpec
from intramuros.execution.server import Server, server_of
from intramuros.execution.visible import check_source, parse_mount, parse_variable
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.forward_proxy import configured_proxy
from intramuros.kernel.telemetry import logger
from intramuros.web.base import FETCH, SEARCH
from intramuros.web.engines import Engine
from intramuros.web.terms import EngineSettings, Terms, checked_tools, engine_from

log = logger("worker")

MAX_CONCURRENCY: Final = 256
# With 80 and 443 as many as can be listened on in one sandbox.
MAX_EGRESS_PORTS: Final = 62
# Each sync lists every store of a session (contract 25.17).
MIN_MEMORY_SYNC_S: Final = 5.0
MIN_REVOKED_AGE_S: Final = 10.0
_EGRESS: Final = EgressLimits()
_EGRESS_BOUNDS: Final = {
    "egress_connections": "connections",
    "egress_requests_per_s": "rate",
    "egress_bytes_per_s": "bytes_per_s",
    "egress_sent_bytes": "sent_bytes",
    "egress_received_bytes": "received_bytes",
}
_KEY_BYTES: Final = 8192
_LISTS: Final = ("allow", "deny", "internal", "pass_through")
# A key that goes to this very machine travels nowhere.
_LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@dataclass(frozen=True)
class WebSettings:
    """What a worker does of the web: which tools, whom it reaches, and whom it asks."""

    tools: frozenset[str]
    own: OwnRules
    terms: Terms
    engine: Engine | None
    engine_inside: bool = False
    """Whether the engine's address is the operator's own."""


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of one worker process; every default is the safe one."""

    base_url: str = field(metadata={"env": ("INTRAMUROS_URL", "ANTHROPIC_BASE_URL")})
    """Control plane, https except on this machine."""
    environment_key_file: Path
    """File that holds the environment key, or with ``pool`` the pool key, and nothing else."""
    state_dir: Path
    """Journal, audit file and workspaces; one living worker per directory."""
    environment_id: str | None = field(
        default=None, metadata={"env": ("INTRAMUROS_ENVIRONMENT_ID", "ANTHROPIC_ENVIRONMENT_ID")}
    )
    """Whose work to claim, env_…."""
    proxy: str | None = None
    """Company's proxy to the control plane, ``http://host:port``; ``none`` for none, that
    of ``HTTPS_PROXY`` and ``NO_PROXY`` when not set."""
    proxy_credentials_file: Path | None = None
    """File that holds ``user:password`` for that proxy, and nothing else."""
    ca_file: Path | None = None
    """PEM certificates by which the control plane is verified besides the system's."""
    pool: bool = False
    """Serve all cloud environments of an Intramuros server instead, with a pool key."""
    audit_file: Path | None = None
    """Hash-chained record; ``<state_dir>/audit.jsonl`` when not set."""
    metrics_listen: str | None = None
    """Local ``HOST:PORT`` of ``/healthz``, ``/readyz`` and ``/metrics``."""
    status_file: Path | None = None
    """JSON about what each loop is doing now, rewritten when it changes."""
    concurrency: int = 4
    """Sessions served at once."""
    provider: str = "bubblewrap"
    """Sandbox provider: ``bubblewrap``, ``oci``, ``gvisor``, an entry point of the group
    ``intramuros.sandboxes``, or ``process``, which isolates nothing."""
    rootfs: Path | None = None
    """Directory that sandboxes see as their root; the host's own /usr when not set."""
    image: str | None = None
    """The same from an image: ``oci-archive:/FILE[:TAG]``, ``oci:/DIRECTORY[:TAG]``,
    ``docker://HOST/NAME[:TAG][@DIGEST]`` or ``dir:/DIRECTORY``."""
    image_auth_file: Path | None = None
    """Credentials for registries, as ``skopeo login`` writes them."""
    mounts: tuple[str, ...] = ()
    """``source:target[:rw]``; read-only unless it ends in ``:rw``. Nobody else can add a mount."""
    gpus: tuple[str, ...] = ()
    """``all``, or device files of GPUs that sandboxes get (``/dev/nvidia0``)."""
    variables: tuple[str, ...] = ()
    """``NAME=value`` in the environment of sandboxes; never a credential."""
    cpus: float = 1.0
    """Processors of one sandbox."""
    memory_bytes: int = 1_073_741_824
    """Memory of one sandbox."""
    pids: int = 256
    """Processes and threads of one sandbox."""
    disk_bytes: int = 4_294_967_296
    """What one sandbox may write."""
    egress_allow: tuple[str, ...] = ()
    """Hosts that sandboxes may reach if their environment agrees: ``name``, ``*.name``, ``*`` for
    all, ``@package-managers`` for the public registries. Empty gives sandboxes no network."""
    egress_deny: tuple[str, ...] = ()
    """Hosts that no sandbox reaches, whatever allows them."""
    egress_ports: tuple[int, ...] = ()
    """TCP ports that can be reached beside 80 and 443."""
    egress_internal: tuple[str, ...] = ()
    """Of the allowed hosts, those that may have private addresses."""
    egress_pass_through: tuple[str, ...] = ()
    """Of the allowed hosts, those whose TLS is passed on unread, without secrets."""
    egress_scrub: bool = True
    """Take known secrets out of hosts' answers, so that none comes back into a sandbox."""
    egress_ca_file: Path | None = None
    """PEM certificates by which hosts are verified besides the system's."""
    outflow_policy: Path | None = None
    """YAML with what is masked, asked about or blocked in what leaves; None masks known formats."""
    egress_proxy: str | None = None
    """Company's proxy for what sandboxes ask, ``http://host:port``; internal hosts go past it."""
    egress_proxy_credentials_file: Path | None = None
    """File that holds ``user:password`` for that proxy, and nothing else."""
    egress_proxy_resolves: bool = False
    """Leave names that the worker cannot resolve to that proxy, and the judgement of addresses."""
    egress_connections: int = 128
    """Connections that one sandbox may have open."""
    egress_requests_per_s: float = 100.0
    """Connections and requests of one sandbox in a second, in the long run."""
    egress_bytes_per_s: float = 268_435_456.0
    """Bytes of one sandbox in a second, both ways, in the long run."""
    egress_sent_bytes: int = 10_737_418_240
    """Bytes that one session's sandbox may send in all."""
    egress_received_bytes: int = 107_374_182_400
    """Bytes that one session's sandbox may fetch in all."""
    web_tools: tuple[str, ...] = ()
    """Web calls that the server may hand over to this worker, of web_fetch and web_search; they are
    made outside of sandboxes."""
    web_allow: tuple[str, ...] = ()
    """Hosts that web_fetch may reach, as in egress_allow; those of egress_allow when empty. What is
    denied, internal and a port is as for sandboxes."""
    web_timeout_s: float = 20.0
    """Seconds that one web call may take."""
    search_engine: str | None = None
    """What web_search asks: searxng, brave or tavily."""
    search_url: str | None = None
    """Address of the search engine's API; needed for searxng."""
    search_key_file: Path | None = None
    """File that holds the search engine's key and nothing else."""
    max_idle_s: float = 60.0
    """Seconds after the end of a turn until the work item is given back (contract 22.15)."""
    freeze_after_s: float = 15.0
    """Seconds after the end of a turn until the sandbox stands still; its next call thaws it."""
    keep_idle_sandboxes: int = 0
    """Sandboxes kept frozen after their item ended; 0 puts each away at once."""
    warm_min: int = 1
    """Sandboxes that wait for sessions at all times, so that a first call need not."""
    warm_max: int = 4
    """Sandboxes that wait after many were needed at once; 0 makes each when it is needed."""
    hibernate_after_s: float = 600.0
    """Seconds that one of those rests in memory until it is put away."""
    snapshots: str = ""
    """Where sandboxes are put away: a directory or a store (``s3://…``, ``gs://…``, ``az://…``)
    that the workers of an environment share; ``<state_dir>/snapshots`` of this worker alone when
    not set; ``off`` destroys them instead (their workspaces stay)."""
    snapshot_key_file: Path | None = None
    """Keys that snapshots are sealed with, the same for workers that share a place;
    ``<state_dir>/snapshot-keys.json`` when not set."""
    snapshot_max_bytes: int = 16 * 1024**3
    """Of one stored snapshot."""
    snapshot_expire_s: float = 0.0
    """Age at which the snapshot of a sleeping session is removed; 0 keeps it."""
    reserve_memory_bytes: int = 256 * 1024**2
    """Memory of the host that stays free: with less, nothing is claimed; 0 asks for none."""
    reserve_disk_bytes: int = 512 * 1024**2
    """What stays free where the state directory is: with less, nothing is claimed; 0 asks for none,
    and sandboxes meet errors, or lose what they wrote, once the disk is full."""
    max_load_per_cpu: float = 0.0
    """Load of each processor above which nothing is claimed; 0 claims at any load."""
    ssh_listen: str | None = None
    """Let people in by SSH: ``unix``, a socket of this user's alone, or a local ``HOST:PORT``."""
    ssh_trust: Path | None = None
    """File of SSH authorities, a public key on each line, whose certificates let people in too: the
    control plane's (``GET /x/ssh_authority``); the worker's own alone when not set."""
    ssh_revoked: Path | None = None
    """File of certificates that let nobody in any more, ``serial: N``, ``id: WHO`` or ``hash:
    SHA256:…`` on each line; read again whenever it changes."""
    ssh_revoked_max_age_s: float = 120.0
    """Seconds without word from the control plane of what it revoked until its certificates let
    nobody in; asked every 2 seconds."""
    ssh_idle_s: float = 900.0
    """Seconds without a byte until a person's connection is ended."""
    ssh_max_s: float = 14_400.0
    """Seconds that a person's connection may last."""
    ssh_record: bool = False
    """Record what is typed and seen in their terminals, in ``<state_dir>/ssh/recordings``."""
    memory_sync_s: float = 15.0
    """Seconds between two syncs of a session's memory stores; 0 leaves memory out of sandboxes."""
    call_timeout_s: float = 150.0
    """Of one tool call, in seconds (contract 22.10); above the tools' own 120 s."""
    lease_ttl_s: int = 20
    """Seconds without a heartbeat until a session goes to another worker; the server bounds it."""
    drain_s: float = 180.0
    """Seconds that running calls have after the first stop signal."""
    reclaim_older_than_ms: int | None = None
    """Take over items that another worker claimed but did not acknowledge; None: the server's."""
    custom_tools: tuple[str, ...] = ()
    """Names of installed plug-in tools (entry points ``intramuros.tools``) to serve."""
    wake_listen: str | None = None
    """Local ``HOST:PORT`` that takes the control plane's webhooks, passed on by your proxy: work
    is asked for when one comes, instead of all the time."""
    wake_secret_file: Path | None = None
    """File that holds those webhooks' signing secret, and nothing else."""
    wake_poll_s: float = 300.0
    """Seconds after which work is asked for without a webhook, too."""
    mcp_servers: Path | None = None
    """YAML with MCP servers inside the perimeter whose tools are served as custom tools."""
    allow_plaintext: bool = False
    """Send the environment key over http to another machine."""
    once: bool = False
    """Return when the queue is empty and the claimed items are done."""

    def checked(self) -> "WorkerSettings":
        """Return these settings if they can work.

        Raises:
            OperatorError: the first one that cannot, with what to write instead.
        """
        self._check_url()
        if (self.environment_id is None) != self.pool:
            raise OperatorError(
                "name one environment with --environment-id, or serve the cloud environments "
                "with --pool",
                "give exactly one of the two",
            )
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise OperatorError(
                f"concurrency {self.concurrency} is out of range", f"use 1 to {MAX_CONCURRENCY}"
            )
        doorstep(self.ssh_listen, self.state_dir)
        local_port(self.metrics_listen, "metrics_listen")
        local_port(self.wake_listen, "wake_listen")
        for name in (
            "max_idle_s",
            "ssh_idle_s",
            "ssh_max_s",
            "call_timeout_s",
            "lease_ttl_s",
            "drain_s",
            "web_timeout_s",
            "cpus",
            "memory_bytes",
            "pids",
            "freeze_after_s",
            "hibernate_after_s",
            "snapshot_max_bytes",
            "wake_poll_s",
        ):
            if getattr(self, name) <= 0:
                raise OperatorError(f"setting {name!r} is not positive", "use a number above 0")
        if self.image is not None and self.rootfs is not None:
            raise OperatorError("image and rootfs are both set", "give sandboxes one of the two")
        if not self.ssh_revoked_max_age_s >= MIN_REVOKED_AGE_S:
            raise OperatorError(
                "ssh_revoked_max_age_s is less than a few answers take",
                f"use {MIN_REVOKED_AGE_S:g} or more",
            )
        if (self.ssh_trust or self.ssh_revoked) is not None and self.ssh_listen is None:
            raise OperatorError(
                "ssh_trust or ssh_revoked is set, but nobody is let in", "set ssh_listen, too"
            )
        self._check_sizes()
        self.server()
        self.spec()
        self.egress()
        self.web()
        return self

    def _check_sizes(self) -> None:
        if (self.wake_listen is None) != (self.wake_secret_file is None):
            raise OperatorError(
                "wake_listen and wake_secret_file belong together", "give both, or neither"
            )
        if self.memory_sync_s != 0 and not self.memory_sync_s >= MIN_MEMORY_SYNC_S:
            raise OperatorError(
                f"memory_sync_s {self.memory_sync_s:g} would hammer the control plane",
                f"use {MIN_MEMORY_SYNC_S:g} or more, or 0 for no memory",
            )
        if self.keep_idle_sandboxes < 0:
            raise OperatorError("keep_idle_sandboxes is negative", "use 0 or more")
        if not 0 <= self.warm_min <= self.warm_max <= MAX_CONCURRENCY and self.warm_max != 0:
            raise OperatorError(
                f"warm_min {self.warm_min} and warm_max {self.warm_max} cannot be",
                f"use 0 <= warm_min <= warm_max <= {MAX_CONCURRENCY}, or warm_max 0 for none",
            )
        if self.snapshot_expire_s < 0:
            raise OperatorError("snapshot_expire_s is negative", "use 0 or more")

    def server(self) -> Server:
        """Return the control plane and the way to it.

        Raises:
            OperatorError: the proxy or the certificates cannot be used.
        """
        return server_of(self.base_url, self.proxy, self.proxy_credentials_file, self.ca_file)

    def web(self) -> WebSettings | None:
        """Return what this worker does of the web; None when it makes no web calls.

        Raises:
            OperatorError: it cannot do what is asked, or is told what it has no use for.
        """
        tools = checked_tools(self.web_tools)
        if not tools:
            if self.web_allow:
                raise OperatorError("web_allow is set without web_tools", "name web_fetch in it")
            return None
        hosts = self.web_allow or self.egress_allow
        if FETCH in tools and not hosts:
            raise OperatorError(
                "web_fetch may reach no host", "say with --web-allow which hosts it may reach"
            )
        own = self._rules(hosts)
        engine = None
        if SEARCH in tools:
            said = EngineSettings(self.search_engine, self.search_url, self.search_key_file)
            engine = engine_from(said, _LOOPBACK)
        ports = tuple(sorted(WEB_PORTS | own.ports))
        terms = Terms(ports=ports, timeout_s=self.web_timeout_s)
        return WebSettings(tools, own, terms, engine, self.search_url is not None)

    def egress(self) -> OwnRules | None:
        """Return what sandboxes of this worker may reach at most; None is no network.

        Raises:
            OperatorError: a host or a port is none, or is named without being allowed.
        """
        if self.egress_allow:
            return self._rules(self.egress_allow)
        named = [name for name in (*_LISTS, "ports") if getattr(self, f"egress_{name}")]
        named += ["proxy"] if self.egress_proxy is not None else []
        if named and not self.web_tools:
            raise OperatorError(
                f"egress_{named[0]} is set, but no sandbox has a network",
                "say with --egress-allow which hosts sandboxes may reach",
            )
        return None

    def _rules(self, allow: tuple[str, ...]) -> OwnRules:
        """Return the operator's rules, with these hosts allowed."""
        lists = {name: getattr(self, f"egress_{name}") for name in _LISTS} | {"allow": allow}
        try:
            hosts = {name: parse_hosts(patterns) for name, patterns in lists.items()}
        except ValueError as error:
            raise OperatorError(
                f"egress: {error}", "write name, *.name, * or @package-managers"
            ) from error
        for port in self.egress_ports:
            if not 0 < port < 65_536 or port in (DNS_PORT, PROXY_PORT):
                raise OperatorError(
                    f"egress_ports: {port} cannot be",
                    f"use 1 to 65535, not {DNS_PORT} or {PROXY_PORT}",
                )
        if len(self.egress_ports) > MAX_EGRESS_PORTS:
            raise OperatorError("egress_ports are too many", f"use {MAX_EGRESS_PORTS} at most")
        self.company_proxy()
        self.egress_limits()
        return OwnRules(ports=frozenset(self.egress_ports), **hosts)

    def company_proxy(self) -> CompanyProxy | None:
        """Return the proxy through which sandboxes' hosts are reached, if there is one.

        Raises:
            OperatorError: it is none, or its file holds no credentials.
        """
        if self.egress_proxy is None:
            if self.egress_proxy_credentials_file is not None or self.egress_proxy_resolves:
                raise OperatorError(
                    "egress_proxy_… is set, but no egress_proxy", "name the proxy, or neither"
                )
            return None
        file = self.egress_proxy_credentials_file
        proxy = configured_proxy(self.egress_proxy, "egress_proxy", file)
        return CompanyProxy(proxy, self.egress_proxy_resolves)

    def egress_limits(self) -> EgressLimits:
        """Return what one sandbox may use of the network.

        Raises:
            OperatorError: a bound is not positive.
        """
        bounds = {}
        for name, bound in _EGRESS_BOUNDS.items():
            bounds[bound] = getattr(self, name)
            if not bounds[bound] > 0:
                raise OperatorError(f"{name} is not positive", "use a number above 0")
        if self.egress_connections > _EGRESS.connections:
            raise OperatorError(
                f"egress_connections is {self.egress_connections}",
                f"use at most {_EGRESS.connections}",
            )
        burst = max(round(min(self.egress_bytes_per_s, _EGRESS.bytes_burst)), 1)
        rush = max(min(_EGRESS.burst, round(self.egress_requests_per_s * 5)), 1)
        return replace(_EGRESS, **bounds, bytes_burst=burst, burst=rush)

    def spec(self) -> SandboxSpec:
        """Return what each sandbox is made of.

        Raises:
            OperatorError: a mount that cannot be.
        """
        return SandboxSpec(
            rootfs=self.rootfs,
            limits=Limits(
                cpus=self.cpus,
                memory_bytes=self.memory_bytes,
                pids=self.pids,
                disk_bytes=self.disk_bytes,
            ),
            mounts=tuple(self._mount(text) for text in self.mounts),
            environment=dict(parse_variable(text) for text in self.variables),
        )

    def _mount(self, text: str) -> Mount:
        mount = parse_mount(text, self._hidden())
        check_source(mount.source, self.state_dir)
        return mount

    def _hidden(self) -> tuple[Path | None, ...]:
        """Return the files that hold credentials, or say what the worker may do."""
        return (
            self.environment_key_file,
            self.proxy_credentials_file,
            self.egress_proxy_credentials_file,
            self.search_key_file,
            self.image_auth_file,
            self.snapshot_key_file,
            self.wake_secret_file,
            self.mcp_servers,
            self.ssh_trust,
            self.ssh_revoked,
            self.outflow_policy,
            self.audit_file,
        )

    def audit_path(self) -> Path:
        """Return where the audit file is."""
        return self.audit_file or self.state_dir / "audit.jsonl"

    def environment_key(self) -> str:
        """Read the environment key.

        Raises:
            OperatorError: the file cannot be read, or holds no key.
        """
        file = self.environment_key_file
        try:
            with file.open("rb") as stream:
                raw = stream.read(_KEY_BYTES + 1)
                mode = stat.S_IMODE(file.stat().st_mode)
            key = raw.decode("ascii").strip()
        except OSError as error:
            raise OperatorError(
                f"cannot read the environment key file {file} ({error.strerror})",
                "name the file with --environment-key-file and let this user read it",
            ) from error
        except UnicodeDecodeError as error:
            raise OperatorError(
                f"{file} holds no environment key", "write the key alone"
            ) from error
        if not key or len(raw) > _KEY_BYTES or len(key.split()) != 1:
            raise OperatorError(f"{file} holds no environment key", "write the key alone into it")
        if mode & 0o077:
            log.warning("key_file_readable_by_others", file=str(file), mode=oct(mode))
        return key

    def _check_url(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OperatorError(
                f"base_url {self.base_url!r} is no http(s) address", "write https://host[:port]"
            )
        if parts.scheme == "http" and not self.allow_plaintext and not is_local(parts.hostname):
            raise OperatorError(
                f"base_url {self.base_url!r} would carry the environment key unencrypted",
                "use https, or set allow_plaintext where the network itself is encrypted",
            )
