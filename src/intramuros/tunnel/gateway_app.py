"""Build a gateway and run it: the composition root of ``intramuros gateway``."""

import random
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import anyio

from intramuros.kernel import telemetry
from intramuros.kernel.config import environment
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.forward_proxy import (
    ForwardProxy,
    environments_proxy,
    read_credentials,
    read_proxy,
)
from intramuros.kernel.service import Stop, settle
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, SystemClock
from intramuros.protocol.dial import LINK_ALPN
from intramuros.tunnel.bound_sessions import Binder
from intramuros.tunnel.certs import BadCertificate, check_server_certificate
from intramuros.tunnel.config import GatewayConfig, UpstreamTls
from intramuros.tunnel.control_keys import ControlKeys
from intramuros.tunnel.definitions import Definitions
from intramuros.tunnel.dialer import EdgeDialer, Trust
from intramuros.tunnel.gateway import Gateway, GatewayParts
from intramuros.tunnel.guard import Guard
from intramuros.tunnel.inner import ServerIdentity
from intramuros.tunnel.ledger import Ledger
from intramuros.tunnel.reaching import InForce, reaching
from intramuros.tunnel.relay import Relay
from intramuros.tunnel.reload import Asked, Checks, Reloader, Text, read

log = logger("gateway")


@dataclass(frozen=True)
class GatewaySettings:
    """What a gateway needs to know: its configuration file."""

    config_file: Path
    """YAML: edges, token and certificate files, routes, and what may be reached."""


async def serve_gateway(
    settings: GatewaySettings | GatewayConfig,
    *,
    on_ready: Callable[[str], None] | None = None,
    stop: Stop | None = None,
    clock: Clock | None = None,
    asked: Asked | None = None,
) -> None:
    """Serve until cancelled, or until ``stop`` is requested and open requests have ended.

    Args:
        settings: the configuration file, which is taken up when it changes; or what was read.
        on_ready: called with the edge's address each time a link to an edge is up.
        stop: asks for a drain.
        clock: where time comes from.
        asked: asks for a look at the configuration file.

    Raises:
        OperatorError: the configuration, a certificate or a file cannot be used.
    """
    text: Text | None = None
    if isinstance(settings, GatewayConfig):
        config = settings
    else:
        text = read(settings.config_file)
        config = text.config
    in_force = InForce(config)
    clock = clock or SystemClock()
    identity = ServerIdentity(
        config.cert_file,
        config.key_file,
        clock,
        lambda pem: check_certificate(pem, in_force.config, clock),
    )
    dialer = EdgeDialer(trusts(config), config.edge_transport, proxies(config))
    control_keys = ControlKeys(config.control_key_file, clock)
    guard = None if config.policy_file is None else Guard(config.policy_file)
    definitions = None if config.tools_file is None else Definitions(config.tools_file)
    context = upstream_context(config.upstream_tls)
    telemetry.set_level(config.log_level)
    ledger = Ledger(config.audit_file, clock)
    try:
        rand = random.SystemRandom().random
        async with reaching(in_force, context, clock, rand) as held:
            binder = Binder(lambda: identity.session_keys)
            relay = Relay(held.reach, ledger, control_keys, clock, binder)
            relay.judge.guard, relay.judge.definitions = guard, definitions
            relay.figures.gauges["program_sessions_now"] = (
                "Sessions of programs behind routes now",
                lambda: held.program_count,
            )
            parts = GatewayParts(
                edges=config.edges,
                dialer=dialer,
                token_file=config.token_file,
                name=own_name(config.audit_file),
                identity=identity,
                reach=held.reach,
                relay=relay,
                ledger=ledger,
                clock=clock,
                rand=rand,
                health_port=config.health_port,
            )
            log.info(
                "gateway_starting", routes=sorted(config.routes.routes), edges=len(parts.edges)
            )
            settle()
            async with anyio.create_task_group() as group:
                if text is not None:
                    reloader = Reloader(text, held, ledger, relay.figures, _checks(clock))
                    group.start_soon(reloader.run, asked or Asked())
                gateway = Gateway(parts, on_ready)
                await gateway.run(stop or Stop(), lambda: in_force.config.shutdown_timeout_s)
                group.cancel_scope.cancel()
    finally:
        ledger.close()


def _checks(clock: Clock) -> Checks:
    def certificate(config: GatewayConfig) -> None:
        try:
            pem = config.cert_file.read_bytes()
        except OSError as error:
            raise OperatorError(
                f"cannot read {config.cert_file} ({error.strerror})", "check the path and its mode"
            ) from error
        check_certificate(pem, config, clock)

    return Checks(certificate, lambda config: upstream_context(config.upstream_tls))


def check_certificate(pem: bytes, config: GatewayConfig, clock: Clock) -> None:
    """Check that a certificate can serve every route.

    Raises:
        OperatorError: names the check that fails.
    """
    hosts = [key for key in config.routes.routes if "." in key]
    if len(hosts) < len(config.routes.routes):
        hosts.append(f"*.{config.routes.tunnel_domain}")
    try:
        check_server_certificate(pem, hosts, clock.now())
    except BadCertificate as error:
        raise OperatorError(
            f"the server certificate {config.cert_file} fails the check {error.check!r} ({error})",
            "run `intramuros gateway renew`, or install one that fits",
        ) from error


def trusts(config: GatewayConfig) -> Trust:
    """Return whom to believe to be an edge or a proxy.

    Raises:
        OperatorError: the edge's CA does not load.
    """
    direct, wrapped, proxy = (
        _trust(config.edge_ca_file, "edge_ca_file", include_system=config.edge_ca_file is None)
        for _ in range(3)
    )
    direct.minimum_version = ssl.TLSVersion.TLSv1_3
    direct.set_alpn_protocols([LINK_ALPN])
    # What ends TLS on the way may be older than we are; nothing depends on the outer TLS alone.
    wrapped.set_alpn_protocols(["http/1.1"])
    proxy.load_default_certs()
    return Trust(direct, wrapped, proxy)


def proxies(config: GatewayConfig) -> Callable[[str], ForwardProxy | None]:
    """Return which proxy is on the way to a host: the configured one, or the environment's."""
    if config.edge_proxy == "none":
        return lambda _host: None
    if config.edge_proxy is not None:
        file = config.edge_proxy_credentials
        known = None if file is None else read_credentials(file)
        proxy = read_proxy(config.edge_proxy, "key 'edge_proxy'", known)
        return lambda _host: proxy
    return environments_proxy(environment())


def upstream_context(trust: UpstreamTls) -> ssl.SSLContext:
    """Return whom to believe to be a private server.

    Raises:
        OperatorError: the CA does not load.
    """
    return _trust(trust.ca_file, "upstream.tls.ca_file", include_system=trust.include_system_cas)


def _trust(ca_file: Path | None, key: str, *, include_system: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if include_system:
        context.load_default_certs()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            detail = getattr(error, "reason", None) or error.strerror or str(error)
            raise OperatorError(
                f"key {key!r}: {ca_file} does not load ({detail})", "give CA certificates in PEM"
            ) from error
    return context


def own_name(audit_file: Path) -> str:
    """Return what edges call this gateway: the host's name, and what tells it from others there.

    Edges bring a session's calls to the same gateway by its name. It is the same after a restart,
    so it comes from the record, which no two gateways of a host share.
    """
    host = "".join(c if (c.isalnum() and c.isascii()) or c in "._-" else "-" for c in _host())
    return f"{host[:119]}-{sha256(bytes(audit_file.absolute())).hexdigest()[:8]}"


def _host() -> str:
    return socket.gethostname()
