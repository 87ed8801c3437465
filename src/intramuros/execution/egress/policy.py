"""Whom a sandbox may reach: the environment's networking and the worker's own rules. Pure.

Both must admit a host, so the stricter of the two wins. The environment says what its author wants;
the worker's own rules say what its operator lets any environment have, and let nothing through
until he says so. Patterns are those of the contract (8.5, R064): a name is itself alone, ``*.name``
is everything below it at any depth and not the name itself.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from intramuros.execution.egress.names import WEB_PORTS, canonical
from intramuros.execution.egress.registries import REGISTRIES

EVERY: Final = "*"
PACKAGE_MANAGERS: Final = "@package-managers"
"""In an operator's list: all of the registries' hosts."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """A set of host names; an empty one covers nothing."""

    exact: frozenset[str] = frozenset()
    below: frozenset[str] = frozenset()
    """Names whose subdomains are covered, at any depth; not the names themselves."""
    every: bool = False

    def covers(self, name: str) -> bool:
        """Tell whether a name, as ``canonical`` returns it, is in the set."""
        if self.every or name in self.exact:
            return True
        at = name.find(".")
        while at >= 0:
            if name[at + 1 :] in self.below:
                return True
            at = name.find(".", at + 1)
        return False

    def __or__(self, other: "Hosts") -> "Hosts":
        """Return what either of the two covers."""
        return Hosts(self.exact | other.exact, self.below | other.below, self.every or other.every)


ANY: Final = Hosts(every=True)


def parse_hosts(patterns: Iterable[str]) -> Hosts:
    """Return the set that patterns stand for.

    An IPv4 address is accepted and covers nothing: sandboxes reach hosts by name only.

    Args:
        patterns: ``name``, ``*.name``, ``*``, or ``@package-managers``.

    Raises:
        ValueError: naming the pattern that is none.
    """
    exact, below, every = set[str](), set[str](), False
    for pattern in _expanded(patterns):
        if pattern == EVERY:
            every = True
            continue
        bare = pattern.removeprefix("*.")
        name = canonical(bare)
        if name is None and not _is_ipv4(pattern):
            raise ValueError(f"{pattern[:80]!r} is no host name, and no '*.' and one")
        if name is not None:
            (exact if bare == pattern else below).add(name)
    return Hosts(frozenset(exact), frozenset(below), every)


@dataclass(frozen=True, slots=True)
class OwnRules:
    """What the operator of a worker lets its sandboxes reach; the default is nothing."""

    allow: Hosts = field(default_factory=Hosts)
    deny: Hosts = field(default_factory=Hosts)
    """Goes before ``allow``."""
    ports: frozenset[int] = frozenset()
    """TCP ports beside 80 and 443."""
    internal: Hosts = field(default_factory=Hosts)
    """Hosts that may have private addresses; they must be allowed as well."""
    pass_through: Hosts = field(default_factory=Hosts)
    """Hosts whose TLS is not ended here: nothing is looked into, and no secret is put in."""


@dataclass(frozen=True, slots=True)
class Networking:
    """What an environment lets its sessions reach."""

    listed: Hosts = ANY
    registries: Hosts = field(default_factory=Hosts)
    mcp_servers: Hosts = field(default_factory=Hosts)

    def why(self, name: str) -> str | None:
        """Return what admits a name, or None."""
        if self.listed.covers(name):
            return "unrestricted" if self.listed.every else "allowed_hosts"
        if self.mcp_servers.covers(name):
            return "allow_mcp_servers"
        return "allow_package_managers" if self.registries.covers(name) else None


NOTHING: Final = Networking(listed=Hosts())


def read_networking(config: Mapping[str, Any] | None, mcp_urls: Iterable[str] = ()) -> Networking:
    """Read an environment's ``networking`` (contract 8.4).

    Args:
        config: as the wire has it; None for an environment that has none because its sandboxes
            are the operator's own, so that his rules alone count.
        mcp_urls: of the session's MCP servers, reachable with ``allow_mcp_servers`` only (R111).

    Returns:
        What it lets through: nothing when it has a form that is not known here.
    """
    if config is None:
        return Networking()
    kind, allowed = config.get("type"), config.get("allowed_hosts")
    if kind == "unrestricted":
        return Networking()
    if kind != "limited" or not isinstance(allowed, list):
        return NOTHING
    mcp_servers = registries = Hosts()
    if config.get("allow_mcp_servers") is True:
        mcp_servers = _known(host for host in map(_host_of, mcp_urls) if host)
    if config.get("allow_package_managers") is True:
        registries = parse_hosts([PACKAGE_MANAGERS])
    # A bare star would open everything: the contract has no such entry.
    listed = _known(entry for entry in allowed if isinstance(entry, str) and entry != EVERY)
    return Networking(listed, registries, mcp_servers)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a connection may be made, and the rule that says so."""

    allowed: bool
    rule: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one sandbox; also the ``Names`` that its capture asks."""

    own: OwnRules = field(default_factory=OwnRules)
    environment: Networking = NOTHING

    def admits(self, name: str) -> bool:
        """Tell whether a name may be looked up."""
        return self._judge_name(name).allowed

    def ports(self) -> frozenset[int]:
        """Return the TCP ports that can be connected to at all."""
        return WEB_PORTS | self.own.ports

    def judge(self, name: str, port: int) -> Verdict:
        """Tell whether a connection to a name and port may be made."""
        if port not in self.ports():
            return Verdict(False, "port_not_allowed")
        return self._judge_name(name)

    def installing(self) -> "Policy":
        """Return the rules for the time that an environment's packages are installed."""
        registries = parse_hosts([PACKAGE_MANAGERS])
        return replace(self, environment=Networking(Hosts(), registries))

    def also(self, name: str) -> "Policy":
        """Return rules whose environment admits one more name; the worker's own still count."""
        listed = self.environment.listed | Hosts(frozenset({name}))
        return replace(self, environment=replace(self.environment, listed=listed))

    def _judge_name(self, name: str) -> Verdict:
        if canonical(name) != name:
            return Verdict(False, "malformed_name")
        if self.own.deny.covers(name):
            return Verdict(False, "worker_denies")
        if not self.own.allow.covers(name):
            return Verdict(False, "worker_does_not_allow")
        why = self.environment.why(name)
        return Verdict(why is not None, why or "environment_does_not_allow")


def _expanded(patterns: Iterable[str]) -> Iterable[str]:
    for pattern in patterns:
        if pattern == PACKAGE_MANAGERS:
            for hosts in REGISTRIES.values():
                yield from hosts
        else:
            yield pattern


def _known(patterns: Iterable[str]) -> Hosts:
    """Return what foreign patterns cover; one of another form covers nothing."""
    hosts = Hosts()
    for pattern in patterns:
        try:
            hosts |= parse_hosts([pattern])
        except ValueError:
            continue
    return hosts


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_ipv4(text: str) -> bool:
    parts = text.split(".")
    return len(parts) == 4 and all(
        part.isascii() and part.isdigit() and len(part) <= 3 and int(part) <= 255 for part in parts
    )
