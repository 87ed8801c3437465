"""One router in front of many: routes are tried within their family only.

The framework tries routes one after the other, with a regular expression each; with two hundred of
them that takes longer than a query. A family is the first two parts of a path, and how many parts
there are; a route with a parameter that may hold slashes is tried whatever their number.
"""

from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from intramuros.control.api.resolve import install


class Families(APIRouter):
    """Routes of several routers, reached through their family.

    Args:
        routers: in the order in which their routes are to be tried.
        others: routes without a family, such as the document's.
    """

    def __init__(self, routers: Sequence[APIRouter], others: Sequence[BaseRoute] = ()) -> None:
        super().__init__(redirect_slashes=False, routes=list(others))
        self._families: dict[tuple[str, int], APIRouter] = {}
        ours = [route for router in routers for route in router.routes]
        self._deepest = 1 + max((route_path(route).count("/") for route in ours), default=0)
        for route in ours:
            self.routes.append(route)
            if isinstance(route, APIRoute):
                install(route)
            path = route_path(route)
            any_depth = ":path}" in path
            depths = range(path.count("/"), self._deepest + 1)
            for depth in depths if any_depth else depths[:1]:
                place = (family_of(path), depth)
                family = self._families.setdefault(place, APIRouter(redirect_slashes=False))
                family.routes.append(route)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request by the router of its family, if it has one."""
        path = scope.get("path", "")
        family = self._families.get((family_of(path), min(path.count("/"), self._deepest)))
        if family is None:
            await super().app(scope, receive, send)
        else:
            await family.app(scope, receive, send)


def route_path(route: BaseRoute) -> str:
    """Return a route's path, with its placeholders."""
    path: str = getattr(route, "path", "")
    return path


def family_of(path: str) -> str:
    """Return the first two parts of a path: ``/v1/agents`` of ``/v1/agents/agent_1``."""
    return "/".join(path.split("/", 3)[:3])
