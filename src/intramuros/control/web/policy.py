"""What the operator lets the web tools do. It binds every agent, whatever an agent's lists say."""

import ipaddress
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2

from intramuros.control.settings import ServerSettings
from intramuros.control.web.base import FETCH, SEARCH
from intramuros.control.web.domains import Rules, rules_of
from intramuros.control.web.engines import ENGINES, Engine
from intramuros.kernel.addresses import Network
from intramuros.kernel.errors import OperatorError

_DOMAIN: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.IGNORECASE)


@dataclass(frozen=True)
class Policy:
    """What the operator allows.

    Args:
        tools: the names of the tools that agents are offered; none by default.
        rules: hosts that may be reached at all.
        networks: private networks that may be reached all the same.
        ports: that URLs may name.
        proxy: through which pages and public search engines are reached, or None.
        context: what servers' certificates are checked against.
        timeout_s: seconds that one call may take, from the first look-up to the last byte.
    """

    tools: frozenset[str] = frozenset()
    rules: Rules = field(default_factory=Rules)
    networks: Sequence[Network] = ()
    ports: Sequence[int] = (80, 443)
    proxy: httpx2.Proxy | None = field(default=None, repr=False)
    context: ssl.SSLContext = field(default_factory=httpx2.create_ssl_context, repr=False)
    timeout_s: float = 20.0
    engine: Engine | None = None


def policy_from(settings: ServerSettings, networks: Sequence[Network]) -> Policy:
    """Return the policy that the settings make.

    Args:
        networks: those of ``web_networks``.

    Raises:
        OperatorError: a setting that cannot be meant; nothing is offered by mistake.
    """
    tools = frozenset(settings.web_tools)
    if unknown := tools - {FETCH, SEARCH}:
        raise OperatorError(
            f"web_tools: there is no {sorted(unknown)[0]!r}", f"name {FETCH} or {SEARCH}, or both"
        )
    for entry in (*settings.web_allowed_domains, *settings.web_blocked_domains):
        if not _DOMAIN.fullmatch(entry):
            raise OperatorError(
                f"{entry!r} is no domain", "write it as example.com, without scheme, port or path"
            )
    engine = _engine(settings, networks) if SEARCH in tools else None
    return Policy(
        tools,
        rules_of(settings.web_allowed_domains, settings.web_blocked_domains),
        networks,
        settings.web_ports,
        _proxy(settings.web_proxy),
        _context(settings.web_ca_file),
        settings.web_timeout_s,
        engine,
    )


def _engine(settings: ServerSettings, networks: Sequence[Network]) -> Engine:
    made = ENGINES.get(settings.search_engine or "")
    if made is None:
        known = ", ".join(ENGINES)
        raise OperatorError(
            "web_search needs a search engine", f"set search_engine to one of {known}"
        )
    url = settings.search_url or made.default_url
    if not url:
        raise OperatorError("search_url is missing", "set it to the address of your SearXNG")
    parts = _parts(url, "search_url")
    key = _key(settings.search_key_file)
    if made.needs_key and not key:
        raise OperatorError(
            f"{settings.search_engine} needs a key", "put it into a file and set search_key_file"
        )
    if key and parts.scheme != "https" and not _inside(parts.host, networks):
        raise OperatorError(
            "the search engine's key would travel in the clear",
            "use https, or an address in web_networks",
        )
    return made(url.rstrip("/"), key)


def _parts(url: str, setting: str) -> httpx2.URL:
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise OperatorError(f"{setting} is no URL", "write it as https://host:port") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise OperatorError(f"{setting} is no URL", "write it as https://host:port")
    return parts


def _inside(host: str, networks: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in networks if network.version == address.version)


def _key(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"cannot read {path}", "check search_key_file") from error
    if not key or not key.isprintable() or " " in key:
        raise OperatorError(f"{path} holds no key", "put the key alone into it")
    return key


def _proxy(url: str | None) -> httpx2.Proxy | None:
    if url is None:
        return None
    _parts(url, "web_proxy")
    return httpx2.Proxy(url)


def _context(path: Path | None) -> ssl.SSLContext:
    context = httpx2.create_ssl_context()
    if path is not None:
        try:
            context.load_verify_locations(cafile=path)
        except (OSError, ssl.SSLError) as error:
            raise OperatorError(f"cannot use {path} ({error})", "check web_ca_file") from error
    return context
