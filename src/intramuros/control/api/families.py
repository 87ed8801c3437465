"""One router in front of many: routes are tried within their family only.

The framework tries routes one after the other, with a regular expression each; with two hundred of
them that takes longer than a query. A family is the first two parts of a path.
"""

from collections.abc import Sequence

from fastapi import APIRouter
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send


class Families(APIRouter):
    """Routes of several routers, reached through their family.

    Args:
        routers: in the order in which their routes are to be tried.
        others: routes without a family, such as the document's.
    """

    def __init__(self, routers: Sequence[APIRouter], others: Sequence[BaseRoute] = ()) -> None:
        super().__init__(redirect_slashes=False, routes=list(others))
        self._families: dict[str, APIRouter] = {}
        for router in routers:
            for route in router.routes:
                self.routes.append(route)
                family = self._families.setdefault(
                    family_of(getattr(route, "path", "")), APIRouter(redirect_slashes=False)
                )
                family.routes.append(route)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request by the router of its family, if it has one."""
        family = self._families.get(family_of(scope.get("path", "")))
        if family is None:
            await super().app(scope, receive, send)
        else:
            await family.app(scope, receive, send)


def family_of(path: str) -> str:
    """Return the first two parts of a path: ``/v1/agents`` of ``/v1/agents/agent_1``."""
    return "/".join(path.split("/", 3)[:3])
