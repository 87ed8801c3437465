"""The control plane as a place: its address, by whom it is verified, and what lies on the way.

Every client of the worker's that speaks to the control plane is made here, so none goes another
way. A proxy is asked for a tunnel (``CONNECT``) and sees TLS pass by; what is spoken in the clear,
which only this machine or an encrypted network may be, is never shown to one.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anthropic
import httpx2

from intramuros.execution.loopback import is_local
from intramuros.kernel.config import environment
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.forward_proxy import ForwardProxy, configured_proxy, environments_proxy

NO_PROXY: Final = "none"
"""Instead of a proxy's address: go past every one, whatever the environment says."""


@dataclass(frozen=True)
class Server:
    """One control plane, and the way to it."""

    base_url: str
    proxy: ForwardProxy | None = None
    context: ssl.SSLContext = field(default_factory=httpx2.create_ssl_context, repr=False)
    """Verifies it and the proxy; shared, since making one takes longer than a request."""

    def client(
        self, path: str, headers: Mapping[str, str], timeout: httpx2.Timeout
    ) -> httpx2.AsyncClient:
        """Return a client of what lies below a path."""
        return httpx2.AsyncClient(
            base_url=f"{self.base_url.rstrip('/')}{path}",
            headers=dict(headers),
            timeout=timeout,
            transport=self._transport(),
            trust_env=False,
        )

    def sdk_client(self) -> httpx2.AsyncClient:
        """Return what the official SDK sends its requests with."""
        return anthropic.DefaultAsyncHttpxClient(transport=self._transport(), trust_env=False)

    def _transport(self) -> httpx2.AsyncHTTPTransport:
        return httpx2.AsyncHTTPTransport(
            verify=self.context,
            trust_env=False,
            proxy=None if self.proxy is None else _as_httpx(self.proxy, self.context),
            limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=100),
        )


def server_of(
    base_url: str, proxy: str | None, credentials: Path | None, ca_file: Path | None
) -> Server:
    """Return the control plane of an operator's settings.

    Args:
        proxy: its address; ``none`` for none; the environment's when not set, which machines of
            this network and this very one go without.
        credentials: a file of ``user:password`` for it.
        ca_file: certificates by which both are verified besides the system's.

    Raises:
        OperatorError: one of them cannot be used.
    """
    context = httpx2.create_ssl_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise OperatorError(
                f"cannot read certificates from {ca_file}", "name a file of PEM certificates"
            ) from error
    return Server(base_url, _way(base_url, proxy, credentials), context)


def _way(base_url: str, proxy: str | None, credentials: Path | None) -> ForwardProxy | None:
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if credentials is not None and proxy in (None, NO_PROXY):
        raise OperatorError(
            "proxy_credentials_file is set, but no proxy", "name the proxy, or neither"
        )
    if proxy == NO_PROXY:
        return None
    if proxy is not None:
        if parts.scheme != "https":
            raise OperatorError(
                "the proxy would read what is said to the control plane in the clear",
                "use an https base_url, or leave proxy out",
            )
        return configured_proxy(proxy, "proxy", credentials)
    if parts.scheme != "https" or is_local(host):
        return None
    return environments_proxy(environment())(host)


def _as_httpx(proxy: ForwardProxy, context: ssl.SSLContext) -> httpx2.Proxy:
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    known = proxy.authorization
    return httpx2.Proxy(
        f"{'https' if proxy.tls else 'http'}://{host}:{proxy.port}",
        headers=None if known is None else {"Proxy-Authorization": known},
        ssl_context=context if proxy.tls else None,
    )


def why_away(error: BaseException) -> str:
    """Return what went wrong on the way, in words of ours: what others say may hold anything."""
    cause = error.__cause__ if isinstance(error, anthropic.APIConnectionError) else error
    if isinstance(cause, httpx2.ProxyError):
        status = str(cause)[:3]
        known = f" ({status})" if status.isdigit() else ""
        return f"the company's proxy does not let this pass{known}"
    return type(cause or error).__name__
