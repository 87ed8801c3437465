"""``POST /v1/oauth/token``: an assertion in, a token out; needs no credential."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from intramuros.control.api.access import ServicesDep
from intramuros.control.api.bodies import Body
from intramuros.control.api.replies import reply
from intramuros.kernel.errors import RateLimited
from intramuros.protocol.resources.federation import TokenRequest

router = APIRouter(prefix="/v1/oauth", tags=["oauth"])

TokenBody = Annotated[TokenRequest, Depends(Body(TokenRequest))]


@router.post("/token")
async def token(request: Request, svc: ServicesDep, body: TokenBody) -> Response:
    """Exchange an identity provider's assertion for an access token."""

    def refused() -> None:
        """Slow down who keeps failing, before it fills the audit log."""
        wait_s = svc.throttle.fail(request.client.host if request.client else "")
        if wait_s is not None:
            raise RateLimited("too many failed exchanges from this address", retry_after_s=wait_s)

    answer = reply(await svc.exchange.run(body, refused))
    answer.headers["cache-control"] = "no-store"
    return answer
