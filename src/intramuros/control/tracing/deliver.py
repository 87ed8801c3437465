"""One delivery to a collector: resolved, checked, posted, never redirected, its answer not read.

Collectors are named by administrators, not by the operator: like every address that comes from
outside, theirs leads to public hosts only, except into networks that the operator lists. What went
wrong is told in a few fixed words, so that no answer, header or address leaks into the API.
"""

import errno
import ipaddress
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import anyio
import httpx2

from intramuros.control.mcp.guard import GuardedTransport, Resolver, system_resolver
from intramuros.control.tracing.endpoints import origin
from intramuros.kernel.addresses import Network, is_allowed
from intramuros.kernel.errors import IntramurosError

# Everything together: name, connection, request, and the status line of the answer.
TIMEOUT_S: Final = 10.0
_AGENT: Final = "intramuros-otlp"
# Statuses after which OTLP lets a request be sent again (OTLP 1.x, "retryable response codes").
_RETRYABLE: Final = frozenset({408, 429, 502, 503, 504})


class NotDelivered(IntramurosError):
    """A delivery failed.

    Args:
        error: in the contract's words (``delivery_health.last_error``).
        retryable: whether the same spans may be sent again.
        reason: why the destination would be disabled for it, after a while or, for a redirect, at
            once.
    """

    def __init__(
        self, error: str, *, retryable: bool = True, reason: str = "sustained_failure"
    ) -> None:
        super().__init__(error)
        self.error = error
        self.retryable = retryable
        self.reason = reason


@dataclass(frozen=True)
class Courier:
    """Carries bodies to collectors.

    Args:
        networks: the operator's own, in which collectors may live.
        ca_pem: of a CA that is trusted besides the system's.
        resolver: turns names into addresses.
    """

    networks: Sequence[Network] = ()
    ca_pem: str | None = None
    resolver: Resolver = system_resolver
    timeout_s: float = TIMEOUT_S

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, kind: str) -> None:
        """Post a body once.

        Args:
            headers: the destination's own.
            kind: the body's media type.

        Raises:
            NotDelivered: no 2xx came back in time.
        """
        with anyio.move_on_after(self.timeout_s):
            await self._post(url, headers, body, kind)
            return
        raise NotDelivered("timeout")

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes, kind: str) -> None:
        addresses = await self._addresses(*origin(url))

        async def resolved(host: str, port: int) -> Sequence[str]:
            return addresses

        transport = GuardedTransport(self.networks, resolved, self._trust)
        sent = {**headers, "content-type": kind, "user-agent": _AGENT, "accept": "*/*"}
        try:
            async with (
                httpx2.AsyncClient(
                    transport=transport,
                    timeout=self.timeout_s,
                    follow_redirects=False,
                    trust_env=False,
                ) as client,
                client.stream("POST", url, content=body, headers=sent) as answer,
            ):
                status = answer.status_code
        except httpx2.TimeoutException as error:
            raise NotDelivered("timeout") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            broken = "TLS failure" if _is_tls(error) else "connection failure"
            raise NotDelivered(broken) from error
        _check(status)

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        """Return checked addresses.

        Raises:
            NotDelivered: there are none, or not only such as may be reached.
        """
        try:
            found = await self.resolver(host, port)
        except socket.gaierror as error:
            if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)):
                raise NotDelivered("invalid address", reason="invalid_address") from error
            raise NotDelivered("temporary DNS failure") from error
        except OSError as error:
            known = error.errno == errno.EINVAL
            raise NotDelivered("invalid address" if known else "temporary DNS failure") from error
        checked = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
        if not checked or not all(is_allowed(a, self.networks) for a in checked):
            raise NotDelivered("invalid address", reason="invalid_address")
        return [str(address) for address in checked]

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        """The context of every connection; made once, for reading the CAs takes a while."""
        context = httpx2.create_ssl_context()
        if self.ca_pem is not None:
            context.load_verify_locations(cadata=self.ca_pem)
        return context


def _check(status: int) -> None:
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise NotDelivered(f"redirect (status {status})", retryable=False, reason="redirect")
    raise NotDelivered(f"HTTP error (status {status})", retryable=status in _RETRYABLE)


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
