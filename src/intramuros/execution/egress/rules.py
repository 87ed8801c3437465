"""What a control plane says of one session's network. Pure.

Everything here is foreign: a rule of another form than is known lets nothing through, and a
variable of another form is left out.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from intramuros.execution.egress.packages import Packages, read_packages
from intramuros.execution.egress.policy import (
    ANY,
    NOTHING,
    Hosts,
    Networking,
    parse_hosts,
    read_networking,
)

MAX_VARIABLES: Final = 1000
MAX_VALUE_CHARS: Final = 65_536
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Variable:
    """An ``environment_variable`` credential."""

    credential_id: str
    name: str
    value: str = field(repr=False)
    hosts: Hosts
    header: bool
    body: bool


@dataclass(frozen=True, slots=True)
class SessionRules:
    """What one session's environment lets its sandbox reach, and the secrets it may use there."""

    networking: Networking = field(default_factory=Networking)
    variables: tuple[Variable, ...] = ()
    packages: Packages = field(default_factory=dict)
    """What is to be installed before the first call, by manager."""

    @classmethod
    def nothing(cls) -> "SessionRules":
        """Return rules that let nothing through."""
        return cls(NOTHING)


OPERATORS_ALONE: Final = SessionRules()
"""Of a self-hosted environment, which has no rules: those of the worker's operator count."""


def read_rules(raw: object) -> SessionRules:
    """Read the answer to ``POST /x/sessions/{id}/egress``.

    Raises:
        ValueError: it is no such answer.
    """
    if not isinstance(raw, Mapping) or raw.get("type") != "session_egress":
        raise ValueError("malformed rules of a session's network")
    networking, urls = raw.get("networking"), raw.get("mcp_server_urls")
    if not isinstance(networking, Mapping) or not isinstance(urls, list):
        raise ValueError("malformed rules of a session's network")
    known = [url for url in urls if isinstance(url, str)]
    listed = raw.get("variables")
    return SessionRules(
        read_networking(networking, known),
        tuple(_variables(listed if isinstance(listed, list) else [])),
        read_packages(raw.get("packages")),
    )


def _variables(listed: list[Any]) -> Iterator[Variable]:
    for item in listed[:MAX_VARIABLES]:
        read = _variable(item) if isinstance(item, Mapping) else None
        if read is not None:
            yield read


def _variable(item: Mapping[str, Any]) -> Variable | None:
    texts = [item.get(key) for key in ("credential_id", "name", "value")]
    credential_id, name, value = (text if isinstance(text, str) else "" for text in texts)
    if not (credential_id and _NAME.fullmatch(name) and 0 < len(value) <= MAX_VALUE_CHARS):
        return None
    hosts = item.get("allowed_hosts")
    try:
        # No list means any host; a list of another form means none.
        allowed = ANY if hosts is None else parse_hosts(_texts(hosts))
    except ValueError:
        allowed = Hosts()
    flags = (item.get("header") is True, item.get("body") is True)
    return Variable(credential_id, name, value, allowed, *flags)


def _texts(hosts: object) -> list[str]:
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        raise ValueError("malformed hosts")
    return [host for host in hosts if host != "*"]
