"""Host names in configuration: web tools' domain lists and environments' allowed hosts."""

import re
from typing import Final

MAX_DOMAINS: Final = 64
MAX_DOMAIN_CHARS: Final = 255
_LABEL: Final = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_HOST: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*\Z", re.ASCII)
# Names that never leave a local network (RFC 6761, RFC 6762, RFC 8375, RFC 9476).
_LOCAL_ENDINGS: Final = (
    "alt",
    "home.arpa",
    "internal",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "test",
)


def check_domains(domains: list[str]) -> list[str]:
    """Return web_fetch's domain list if each entry is a public host name (contract 6.19, 6.20).

    Raises:
        ValueError: naming the entry.
    """
    _check_count(domains)
    for domain in domains:
        _check_public(domain, domain)
    return domains


def check_search_domains(domains: list[str]) -> list[str]:
    """Return web_search's domain list; its entries may carry a path (contract 6.20).

    Raises:
        ValueError: naming the entry.
    """
    _check_count(domains)
    for domain in domains:
        host, _, path = domain.partition("/")
        _check_public(domain, host)
        if not path.isprintable() or any(c in path for c in " ?#*\\"):
            raise ValueError(f"{domain!r}: the path must not have a query, wildcard or blank")
    return domains


def check_allowed_hosts(hosts: list[str]) -> list[str]:
    """Return an environment's allowed hosts: bare names or ``*.``-patterns (contract 8.5).

    Raises:
        ValueError: naming the entry.
    """
    for host in hosts:
        bare = host.removeprefix("*.")
        if len(host) > MAX_DOMAIN_CHARS or not _HOST.match(bare):
            raise ValueError(
                f"{host[:80]!r}: expected a host name or '*.' and one, without scheme, port or path"
            )
        if bare != host and "." not in bare:
            raise ValueError(f"{host!r}: a pattern this wide would allow a whole top-level domain")
    return hosts


def _check_count(domains: list[str]) -> None:
    if not 1 <= len(domains) <= MAX_DOMAINS:
        raise ValueError(f"must hold 1 to {MAX_DOMAINS} entries; omit the field for no list")
    seen: set[str] = set()
    for domain in domains:
        if domain.lower() in seen:
            raise ValueError(f"{domain[:80]!r} appears twice")
        seen.add(domain.lower())


def _check_public(entry: str, host: str) -> None:
    if not 1 <= len(entry) <= MAX_DOMAIN_CHARS:
        raise ValueError(f"{entry[:80]!r}: must have 1 to {MAX_DOMAIN_CHARS} characters")
    if not _HOST.match(host):
        raise ValueError(f"{entry!r}: expected a host name without scheme, port or wildcard")
    labels = host.lower().split(".")
    if len(labels) < 2:
        raise ValueError(f"{entry!r}: a single label is no registrable name")
    if labels[-1].isdigit() or re.match(r"0x[0-9a-f]*\Z", labels[-1]):
        raise ValueError(f"{entry!r}: an IP address is no domain")
    if any(host.lower() == end or host.lower().endswith(f".{end}") for end in _LOCAL_ENDINGS):
        raise ValueError(f"{entry!r}: a local-only name")
