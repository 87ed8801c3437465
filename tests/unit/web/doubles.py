"""What the tests of the web tools share."""

import ipaddress
from collections.abc import Sequence
from typing import Any

from intramuros.control.mcp.base import Caller
from intramuros.control.web.policy import Policy
from intramuros.control.web.ways import ServerWays
from intramuros.web.base import Fetch, Search
from intramuros.web.domains import Rules
from intramuros.web.urls import Target

CALLER = Caller("wrkspc_1", "sesn_1")
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


def policy(*ports: int, **more: Any) -> Policy:
    """A policy that lets both tools reach loopback at some ports."""
    given: dict[str, Any] = {
        "tools": frozenset({"web_fetch", "web_search"}),
        "networks": LOOPBACK,
        "ports": (80, 443, *ports),
        "timeout_s": 5.0,
        **more,
    }
    return Policy(**given)


def fetch(url: str, rules: Rules | None = None, max_tokens: int | None = None) -> Fetch:
    return Fetch(CALLER, "sevt_1", url, rules or Rules(), max_tokens)


def ways(bound: Policy, names: "Names | None" = None) -> ServerWays:
    return ServerWays(bound, names or Names())


def search(query: str, rules: Rules | None = None, **location: str) -> Search:
    return Search(CALLER, "sevt_1", query, rules or Rules(), location)


class Names:
    """A name service that says what a test wants, in turn; the last answer stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers) or [["127.0.0.1"]]
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not answer:
            raise OSError("no such name")
        return answer


class Notes:
    """Remembers which hops were told."""

    def __init__(self, *, broken: bool = False) -> None:
        self.hops: list[str] = []
        self.broken = broken

    async def __call__(self, wanted: Fetch, target: Target) -> None:
        if self.broken:
            raise RuntimeError("the audit cannot be written")
        self.hops.append(f"{target.host}{target.bare_path}")
