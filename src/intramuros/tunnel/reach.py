"""What a gateway can reach now, and who is still under way by what it could reach before.

Each request takes a lease when its route is found and keeps it to its end: whatever is changed
meanwhile, it is recorded, judged and answered by the route that it began with.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

from intramuros.tunnel.destinations import Destinations
from intramuros.tunnel.routes import Route, RouteTable


class Lease:
    """One request's hold on a route.

    Args:
        streams: whether it is a stream that nobody needs to see the end of, so that it may be cut
            off when its route is gone.
    """

    def __init__(self, route: Route, destinations: Destinations, *, streams: bool) -> None:
        self.route = route
        self.destinations = destinations
        self.streams = streams
        self.cut = False
        """Whether it was ended because its route is gone."""
        self.ended = anyio.Event()
        self._scope: anyio.CancelScope | None = None

    def bind(self, scope: anyio.CancelScope) -> None:
        """Name what to cancel when the request is cut off; at once if it was already."""
        self._scope = scope
        if self.cut:
            scope.cancel()

    def cut_off(self) -> None:
        """End the request."""
        self.cut = True
        if self._scope is not None:
            self._scope.cancel()


class Reach:
    """The routes of a gateway and where they lead, replaced as one."""

    def __init__(self, table: RouteTable, destinations: Destinations) -> None:
        self._table = table
        self._destinations = destinations
        self._leases: set[Lease] = set()

    @property
    def table(self) -> RouteTable:
        """The routes now."""
        return self._table

    def serves(self, host: str) -> bool:
        """Whether a host is ours at all."""
        return self._table.serves(host)

    @contextmanager
    def lease(self, host: str, *, streams: bool) -> Iterator[Lease | None]:
        """Lend the route of a host, or None if it has none."""
        route = self._table.match(host)
        if route is None:
            yield None
            return
        lease = Lease(route, self._destinations, streams=streams)
        self._leases.add(lease)
        try:
            yield lease
        finally:
            self._leases.discard(lease)
            lease.ended.set()

    def replace(self, table: RouteTable, destinations: Destinations) -> None:
        """Have requests from now on go by other routes."""
        self._table, self._destinations = table, destinations

    def held(self, wanted: Callable[[Lease], bool]) -> list[Lease]:
        """Return the requests under way that are wanted."""
        return [lease for lease in self._leases if wanted(lease)]
