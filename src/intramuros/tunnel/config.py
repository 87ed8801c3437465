"""The gateway's configuration file: the product's own format, and a few keys of ours.

Keys of the product (contract 17): ``listen_addr``, ``log_level``, ``shutdown_timeout``,
``tunnel_domain``, ``tls.cert_file``, ``tls.key_file``, ``routes``, ``upstream.allowed_ips``,
``upstream.disable_ip_validation``, ``upstream.tls.ca_file``, ``upstream.tls.include_system_cas``.

Ours: ``edge`` (list of ``host:port``), ``edge_ca_file``, ``token_file``, ``control_key_file`` (the
control plane's public key: who calls must show what it signed), ``audit_file``; on the way to the
edge ``edge_transport`` (``auto``, ``direct`` or ``websocket``), ``edge_proxy`` (``http://host:port``,
or ``none`` to ignore the environment's) and ``edge_proxy_credentials_file``; and ``policy_file``
(Cedar: who may call what), ``tools_file`` (approved definitions of tools) and ``health_port`` (on
loopback: /healthz, /readyz, /metrics). A route may also be a program that speaks MCP over its
pipes: a mapping, see ``programs.py``.

``listen_addr`` is accepted and not used: this gateway dials out and listens on nothing. Relative
paths count from the file's directory. Which keys a running gateway takes up says ``changes.py``.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from intramuros.kernel.errors import OperatorError
from intramuros.protocol.hostname import BadHost, check_host
from intramuros.tunnel.dialer import EdgeAddress, Transport
from intramuros.tunnel.limits import NO_LIMITS, RouteLimits, read_limits
from intramuros.tunnel.programs import SYSTEM, Program, read_program
from intramuros.tunnel.routes import (
    PRIVATE_NETWORKS,
    AddressRule,
    BadUpstream,
    IPNetwork,
    RouteTable,
    Upstream,
    parse_upstream,
)
from intramuros.tunnel.sections import Section

MAX_FILE_BYTES: Final = 1024 * 1024
_LEVELS: Final = ("debug", "info", "warn", "warning", "error")
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")


@dataclass(frozen=True)
class UpstreamTls:
    """Whom to trust for ``https`` upstreams."""

    ca_file: Path | None = None
    include_system_cas: bool = False


@dataclass(frozen=True)
class GatewayConfig:
    """A gateway's configuration, read and checked."""

    edges: tuple[EdgeAddress, ...]
    edge_ca_file: Path | None
    token_file: Path
    control_key_file: Path
    audit_file: Path
    cert_file: Path
    key_file: Path
    routes: RouteTable
    addresses: AddressRule
    upstream_tls: UpstreamTls
    log_level: str | None = None
    """None for what the command says."""
    shutdown_timeout_s: float = 30.0
    edge_transport: Transport = Transport.AUTO
    edge_proxy: str | None = None
    """A URL, "none", or None for what the environment says."""
    edge_proxy_credentials: Path | None = None
    policy_file: Path | None = None
    """Cedar: who may call what. Whatever has a route may be called without it."""
    tools_file: Path | None = None
    """Approved definitions of tools. Every definition is passed on without it."""
    health_port: int | None = None
    """Loopback port for /healthz, /readyz and /metrics; 0 takes any."""
    listen_addr: object = None
    """As written; nothing listens there."""


def load_config(path: Path) -> GatewayConfig:
    """Read a configuration file.

    Raises:
        OperatorError: names the key that is wrong and what to write instead.
    """
    return parse_config(read_text(path), path.absolute().parent)


def read_text(path: Path) -> bytes:
    """Return what a configuration file holds.

    Raises:
        OperatorError: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise OperatorError(
            f"cannot read {path} ({error.strerror})", "check the path and its mode"
        ) from error
    if len(text) > MAX_FILE_BYTES:
        raise OperatorError(f"{path} is larger than 1 MiB", "give the gateway's configuration")
    return text


def parse_config(text: bytes, directory: Path) -> GatewayConfig:
    """Read a configuration from its text.

    Args:
        text: YAML.
        directory: what relative paths count from.

    Raises:
        OperatorError: names the key that is wrong and what to write instead.
    """
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise OperatorError("the configuration is no YAML", _where(error)) from error
    top = Section("", data, directory)
    tls, upstream = top.section("tls", required=True), top.section("upstream")
    upstream_tls = upstream.section("tls")
    domain = _domain(top)
    routes, limits = _routes(top, directory)
    trust = UpstreamTls(upstream_tls.path("ca_file"), upstream_tls.flag("include_system_cas"))
    config = GatewayConfig(
        edges=_edges(top),
        edge_ca_file=top.path("edge_ca_file"),
        token_file=top.needed_path("token_file"),
        control_key_file=top.needed_path("control_key_file"),
        audit_file=top.needed_path("audit_file"),
        cert_file=tls.needed_path("cert_file"),
        key_file=tls.needed_path("key_file"),
        routes=RouteTable(routes, domain, limits),
        addresses=_addresses(upstream),
        upstream_tls=trust,
        log_level=_level(top),
        shutdown_timeout_s=top.duration_s("shutdown_timeout", 30.0),
        edge_transport=_transport(top),
        edge_proxy=top.text("edge_proxy"),
        edge_proxy_credentials=top.path("edge_proxy_credentials_file"),
        policy_file=top.path("policy_file"),
        tools_file=top.path("tools_file"),
        health_port=top.port("health_port"),
        listen_addr=top.take("listen_addr"),
    )
    for section in (top, tls, upstream, upstream_tls):
        section.refuse_unknown()
    _check_routes(routes, domain, trust)
    _check_apart(config)
    return config


def _where(error: Exception) -> str:
    """Say where a file is wrong; its own words, which may be secrets, are not repeated."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or "it cannot be read"
    what = re.sub(r"'[^']*'", "...", what)
    return what if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {what}"


def _edges(top: Section) -> tuple[EdgeAddress, ...]:
    value = top.take("edge")
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise OperatorError("key 'edge' is missing", 'list edges, such as ["edge.example:443"]')
    return tuple(_edge(item) for item in items)


def _edge(item: object) -> EdgeAddress:
    host, colon, port = str(item).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise OperatorError(f"key 'edge' has the entry {item!r}", "write host:port")
    return EdgeAddress(host, int(port))


def _transport(top: Section) -> Transport:
    value = top.text("edge_transport") or Transport.AUTO
    try:
        return Transport(value)
    except ValueError:
        known = ", ".join(Transport)
        raise OperatorError(f"key 'edge_transport' is {value!r}", f"write one of {known}") from None


def _domain(top: Section) -> str:
    domain = top.text("tunnel_domain") or ""
    if domain:
        try:
            check_host(domain)
        except BadHost as error:
            raise OperatorError(
                f"key 'tunnel_domain' is {domain!r}", "write the tunnel's domain in lower case"
            ) from error
    return domain


def _routes(
    top: Section, directory: Path
) -> tuple[dict[str, Upstream | Program], dict[str, RouteLimits]]:
    value = top.take("routes")
    if not isinstance(value, Mapping) or not value:
        raise OperatorError(
            "key 'routes' must be a mapping",
            "write `routes:` and below it lines such as `docs: http://10.0.0.5:8080`, no dashes",
        )
    routes: dict[str, Upstream | Program] = {}
    limits: dict[str, RouteLimits] = {}
    for key, what in value.items():
        label = _route_key(key)
        routes[label], limited = _route(key, what, directory)
        if limited != NO_LIMITS:
            limits[label] = limited
    return routes, limits


def _route(key: object, what: object, directory: Path) -> tuple[Upstream | Program, RouteLimits]:
    if not isinstance(what, Mapping):
        return _route_upstream(key, what), NO_LIMITS
    section = Section(f"routes.{key}", what, directory)
    limits = read_limits(section)
    if not section.has("url"):
        return read_program(section), limits
    upstream = _route_upstream(key, section.take("url"))
    section.refuse_unknown()
    return upstream, limits


def _route_key(key: object) -> str:
    text = str(key)
    try:
        return text if _LABEL.match(text) else check_host(text)
    except BadHost as error:
        raise OperatorError(
            f"key 'routes' has the host {text!r}", "write a label or a full name in lower case"
        ) from error


def _route_upstream(key: object, text: object) -> Upstream:
    try:
        return parse_upstream(text if isinstance(text, str) else "")
    except BadUpstream as error:
        raise OperatorError(
            f"routes.{key} has an invalid upstream {_shown(text)!r}",
            "write scheme://host:port, without a path, such as http://10.0.0.5:8080,"
            " or a mapping with a `url` or a `command`",
        ) from error


def _shown(text: object) -> object:
    """Return an upstream as it may be told: without credentials that somebody put there."""
    return re.sub(r"[^/]*@", "...@", text) if isinstance(text, str) else type(text).__name__


def _addresses(upstream: Section) -> AddressRule:
    listed, anything = upstream.take("allowed_ips"), upstream.flag("disable_ip_validation")
    if listed is None:
        return AddressRule(PRIVATE_NETWORKS, anything)
    if anything:
        raise OperatorError(
            "upstream.allowed_ips and upstream.disable_ip_validation exclude each other",
            "keep one of them",
        )
    if not isinstance(listed, list) or not listed:
        raise OperatorError(
            "key 'upstream.allowed_ips' must be a list", "write addresses or ranges"
        )
    return AddressRule(tuple(_network(item) for item in listed))


def _network(item: object) -> IPNetwork:
    try:
        return ipaddress.ip_network(str(item))
    except ValueError as error:
        raise OperatorError(
            f"upstream.allowed_ips has the entry {item!r}",
            "write an address or a range such as 10.1.0.0/16, host bits zero",
        ) from error


def _level(top: Section) -> str | None:
    level = (top.text("log_level") or "").lower()
    if not level:
        return None
    if level not in _LEVELS:
        raise OperatorError(f"key 'log_level' is {level!r}", f"use one of {', '.join(_LEVELS)}")
    return "warning" if level == "warn" else level


def _check_routes(
    routes: Mapping[str, Upstream | Program], domain: str, trust: UpstreamTls
) -> None:
    for key, upstream in routes.items():
        if "." not in key and not domain:
            raise OperatorError(
                f"routes.{key} is a bare label, but tunnel_domain is not set",
                "set tunnel_domain, or write the full host name",
            )
        if not isinstance(upstream, Upstream):
            continue
        if upstream.scheme == "https" and not (trust.ca_file or trust.include_system_cas):
            raise OperatorError(
                f"routes.{key} is https, but no CA is trusted for it",
                "set upstream.tls.ca_file or upstream.tls.include_system_cas",
            )


def _check_apart(config: GatewayConfig) -> None:
    """Refuse to show a program what proves who the gateway is, or have it change what binds it."""
    confined = {
        key: what
        for key, what in config.routes.routes.items()
        if isinstance(what, Program) and what.confined
    }
    secrets = [path for what in confined.values() for path in what.secret_files.values()]
    hidden = [config.token_file, config.key_file, config.audit_file, *secrets]
    binding = [config.cert_file, config.control_key_file]
    hidden += filter(None, [config.edge_proxy_credentials])
    binding += filter(None, [config.policy_file, config.tools_file])
    binding += filter(None, [config.edge_ca_file, config.upstream_tls.ca_file])
    for key, what in confined.items():
        _refuse_shown(f"routes.{key}.read", (*what.read, SYSTEM), hidden)
        _refuse_shown(f"routes.{key}.write", what.write, [*hidden, *binding])


def _refuse_shown(name: str, shown: Iterable[Path], kept: Sequence[Path]) -> None:
    for path in shown:
        whole = path.resolve()
        for file in kept:
            # By its own name, and by what a link at it leads to.
            places = (file.resolve(), file.parent.resolve() / file.name)
            if any(place.is_relative_to(whole) for place in places):
                raise OperatorError(
                    f"{name} shows {path}, in which the gateway's own {file} lies",
                    "show directories that hold nothing of the gateway's, or move its file",
                )
