"""What an operator lets web tools do, and the search engine that he names."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2

from intramuros.kernel.addresses import Network
from intramuros.kernel.errors import OperatorError
from intramuros.web.base import FETCH, SEARCH
from intramuros.web.domains import Rules
from intramuros.web.engines import ENGINES, Engine

_DOMAIN: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.IGNORECASE)


@dataclass(frozen=True)
class Terms:
    """What binds every call, whoever makes it.

    Args:
        rules: hosts that may be reached at all.
        networks: private networks that may be named by address.
        ports: that URLs may name.
        timeout_s: seconds that one call may take, from the first look-up to the last byte.
    """

    rules: Rules = field(default_factory=Rules)
    networks: Sequence[Network] = ()
    ports: Sequence[int] = (80, 443)
    timeout_s: float = 20.0


def checked_tools(names: Iterable[str]) -> frozenset[str]:
    """Return the web tools that are named.

    Raises:
        OperatorError: there is no such tool.
    """
    tools = frozenset(names)
    if unknown := tools - {FETCH, SEARCH}:
        raise OperatorError(
            f"web_tools: there is no {sorted(unknown)[0]!r}",
            f"name {FETCH} or {SEARCH}, or both: --web-tools {FETCH} --web-tools {SEARCH}",
        )
    return tools


def check_domains(*lists: Iterable[str]) -> None:
    """Check lists of domains.

    Raises:
        OperatorError: an entry is none.
    """
    for entry in (entry for entries in lists for entry in entries):
        if not _DOMAIN.fullmatch(entry):
            raise OperatorError(
                f"{entry!r} is no domain", "write it as example.com, without scheme, port or path"
            )


@dataclass(frozen=True)
class EngineSettings:
    """How an operator names his search engine."""

    name: str | None
    url: str | None
    key_file: Path | None


def engine_from(said: EngineSettings, networks: Sequence[Network] = ()) -> Engine:
    """Return the search engine that settings name.

    Args:
        networks: private networks, in which a key may travel in the clear.

    Raises:
        OperatorError: there is none, or its key or address is missing.
    """
    made = ENGINES.get(said.name or "")
    if made is None:
        known = ", ".join(ENGINES)
        raise OperatorError(
            "web_search needs a search engine", f"set search_engine to one of {known}"
        )
    url = said.url or made.default_url
    if not url:
        raise OperatorError("search_url is missing", "set it to the address of your SearXNG")
    parts = address(url, "search_url")
    key = _key(said.key_file)
    if made.needs_key and not key:
        raise OperatorError(
            f"{said.name} needs a key", "put it into a file and set search_key_file"
        )
    if key and parts.scheme != "https" and not _inside(parts.host, networks):
        raise OperatorError(
            "the search engine's key would travel in the clear",
            "use https, or an address in web_networks",
        )
    return made(url.rstrip("/"), key)


def address(url: str, setting: str) -> httpx2.URL:
    """Return the parts of a setting that is a URL.

    Raises:
        OperatorError: it is none.
    """
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
