"""What differs between two configurations of a gateway, and what of it needs a restart.

Values of routes are compared and never shown, because a program's variables may be secrets.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from intramuros.tunnel.config import GatewayConfig
from intramuros.tunnel.programs import Program

# In the record; a file of a megabyte may hold ten thousands of routes.
MAX_NAMES: Final = 100
# Member of the configuration → its key in the file. A running gateway takes up these …
LIVE: Final = {
    "routes": "routes",
    "addresses": "upstream",
    "upstream_tls": "upstream.tls",
    "log_level": "log_level",
    "shutdown_timeout_s": "shutdown_timeout",
}
# … and these are read at its start.
FIXED: Final = {
    "edges": "edge",
    "edge_ca_file": "edge_ca_file",
    "token_file": "token_file",
    "control_key_file": "control_key_file",
    "audit_file": "audit_file",
    "cert_file": "tls.cert_file",
    "key_file": "tls.key_file",
    "edge_transport": "edge_transport",
    "edge_proxy": "edge_proxy",
    "edge_proxy_credentials": "edge_proxy_credentials_file",
    "policy_file": "policy_file",
    "tools_file": "tools_file",
    "health_port": "health_port",
    "listen_addr": "listen_addr",
}


@dataclass(frozen=True)
class Changes:
    """What differs; names of routes and keys alone."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Routes that lead elsewhere, to a program that is run otherwise, or have other limits."""
    settings: tuple[str, ...] = ()
    """Other keys that a running gateway takes up."""
    fixed: tuple[str, ...] = ()
    """Keys that need a restart."""

    def with_setting(self, key: str) -> "Changes":
        """Return these and one more key that a running gateway takes up."""
        return replace(self, settings=tuple(sorted({*self.settings, key})))

    def fields(self) -> dict[str, object]:
        """Return members for an audit record and for the log."""
        found: dict[str, object] = {}
        for name in ("added", "removed", "changed", "settings"):
            names: tuple[str, ...] = getattr(self, name)
            if names:
                found[name] = list(names[:MAX_NAMES])
            if len(names) > MAX_NAMES:
                found[f"{name}_count"] = len(names)
        return found


def compare(before: GatewayConfig, now: GatewayConfig) -> Changes:
    """Return what differs between the configuration in force and another."""
    old, new = before.routes.routes, now.routes.routes
    fixed = [key for member, key in FIXED.items() if _differs(before, now, member)]
    if before.routes.tunnel_domain != now.routes.tunnel_domain:
        fixed.append("tunnel_domain")
    return Changes(
        added=_names(new, lambda key: key not in old),
        removed=_names(old, lambda key: key not in new),
        changed=_names(new, lambda key: key in old and _of(before, key) != _of(now, key)),
        settings=tuple(
            sorted(
                key
                for member, key in LIVE.items()
                if member != "routes" and _differs(before, now, member)
            )
        ),
        fixed=tuple(sorted(fixed)),
    )


def _of(config: GatewayConfig, key: str) -> tuple[object, ...]:
    """Return all that a route is: where it leads, and its limits, which end nothing."""
    what = config.routes.routes[key]
    sessions = (what.sessions, what.per_person) if isinstance(what, Program) else ()
    return what, sessions, config.routes.limits.get(key)


def _differs(before: GatewayConfig, now: GatewayConfig, member: str) -> bool:
    return bool(getattr(before, member) != getattr(now, member))


def _names(keys: Iterable[str], wanted: Callable[[str], bool]) -> tuple[str, ...]:
    return tuple(sorted(filter(wanted, keys)))
