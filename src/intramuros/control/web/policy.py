"""What the operator lets the web tools do. It binds every agent, whatever an agent's lists say."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2

from intramuros.control.settings import ServerSettings
from intramuros.kernel.addresses import Network
from intramuros.kernel.errors import OperatorError
from intramuros.web.base import SEARCH
from intramuros.web.domains import rules_of
from intramuros.web.engines import Engine
from intramuros.web.terms import (
    EngineSettings,
    Terms,
    address,
    check_domains,
    checked_tools,
    engine_from,
)

# Where web tools run.
SERVER: Final = "server"
WORKER: Final = "worker"
# Settings that the workers have of their own when they make the calls.
_THEIRS: Final = (
    "search_engine",
    "search_url",
    "search_key_file",
    "web_networks",
    "web_proxy",
    "web_ca_file",
)


@dataclass(frozen=True)
class Policy(Terms):
    """What the operator allows.

    Args:
        tools: the names of the tools that agents are offered; none by default.
        proxy: through which pages and public search engines are reached, or None.
        context: what servers' certificates are checked against.
        handed_over: whether workers make the calls, from inside the perimeter.
    """

    tools: frozenset[str] = frozenset()
    proxy: httpx2.Proxy | None = field(default=None, repr=False)
    context: ssl.SSLContext = field(default_factory=httpx2.create_ssl_context, repr=False)
    engine: Engine | None = None
    handed_over: bool = False


def policy_from(settings: ServerSettings, networks: Sequence[Network]) -> Policy:
    """Return the policy that the settings make.

    Args:
        networks: those of ``web_networks``.

    Raises:
        OperatorError: a setting that cannot be meant; nothing is offered by mistake.
    """
    tools = checked_tools(settings.web_tools)
    check_domains(settings.web_allowed_domains, settings.web_blocked_domains)
    handed_over = _handed_over(settings)
    said = EngineSettings(settings.search_engine, settings.search_url, settings.search_key_file)
    asks = SEARCH in tools and not handed_over
    return Policy(
        rules=rules_of(settings.web_allowed_domains, settings.web_blocked_domains),
        networks=networks,
        ports=settings.web_ports,
        timeout_s=settings.web_timeout_s,
        tools=tools,
        proxy=_proxy(settings.web_proxy),
        context=_context(settings.web_ca_file),
        engine=engine_from(said, networks) if asks else None,
        handed_over=handed_over,
    )


def _handed_over(settings: ServerSettings) -> bool:
    if settings.web_place not in (SERVER, WORKER):
        raise OperatorError(
            f"web_place: there is no {settings.web_place!r}", f"use {SERVER} or {WORKER}"
        )
    if settings.web_place == SERVER:
        return False
    if given := [name for name in _THEIRS if getattr(settings, name)]:
        raise OperatorError(
            f"{given[0]} is for calls that this server makes, and workers make them",
            "tell it to the workers, or set web_place to server",
        )
    return True


def _proxy(url: str | None) -> httpx2.Proxy | None:
    if url is None:
        return None
    address(url, "web_proxy")
    return httpx2.Proxy(url)


def _context(path: Path | None) -> ssl.SSLContext:
    context = httpx2.create_ssl_context()
    if path is not None:
        try:
            context.load_verify_locations(cafile=path)
        except (OSError, ssl.SSLError) as error:
            raise OperatorError(f"cannot use {path} ({error})", "check web_ca_file") from error
    return context
