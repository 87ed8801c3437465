"""The server's ways to the web: to checked addresses, or through the operator's proxy."""

import httpx2

from intramuros.control.mcp.guard import AddressRefused, GuardedTransport, Resolver
from intramuros.control.web.policy import Policy
from intramuros.kernel.addresses import is_allowed
from intramuros.web.urls import Target
from intramuros.web.wire import Forbidden


class _Checked(GuardedTransport):
    """Says plainly that an address was refused."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request."""
        try:
            return await super().handle_async_request(request)
        except httpx2.HTTPError as error:
            if isinstance(error.__cause__, AddressRefused):
                raise Forbidden("the host does not resolve to public addresses only") from error
            raise


class ServerWays:
    """Opens the way to pages: to checked addresses, or through the operator's proxy.

    Args:
        resolver: turns names into addresses.
    """

    def __init__(self, policy: Policy, resolver: Resolver) -> None:
        self._policy = policy
        self._resolver = resolver

    async def to(self, target: Target) -> httpx2.AsyncBaseTransport:
        """Return a transport for one request to a page.

        Raises:
            Forbidden: the proxy would be asked for a host that is known to be no public one.
        """
        if self._policy.proxy is None:
            return _Checked(self._policy.networks, self._resolver, self._policy.context)
        await self._check_known(target)
        return self.proxied()

    def to_engine(self, *, public: bool) -> httpx2.AsyncBaseTransport:
        """Return a transport to the search engine: public ones are asked through the proxy."""
        return self.proxied() if public and self._policy.proxy is not None else self.direct()

    def proxied(self) -> httpx2.AsyncBaseTransport:
        """Return a transport through the proxy; a direct one where there is none."""
        return httpx2.AsyncHTTPTransport(
            verify=self._policy.context, proxy=self._policy.proxy, trust_env=False, retries=0
        )

    def direct(self) -> httpx2.AsyncBaseTransport:
        """Return a transport to an address of the operator's own."""
        return httpx2.AsyncHTTPTransport(verify=self._policy.context, trust_env=False, retries=0)

    async def _check_known(self, target: Target) -> None:
        """Refuse what this host's own name service knows to be inside.

        The proxy resolves names itself and has rules of its own; names that only it can resolve
        are left to it.
        """
        if "." not in target.host and target.address is None:
            raise Forbidden("the host has a name of a local network")
        try:
            found = await self._resolver(target.host, target.port)
        except OSError:
            return
        for text in found:
            address = Target(target.scheme, text, target.port, "/").address
            if address is None or not is_allowed(address, self._policy.networks):
                raise Forbidden("the host does not resolve to public addresses only")
