"""Errors that the web framework raises itself, turned into ours."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from intramuros.control.api.bodies import describe
from intramuros.control.api.boundary import context_of, encode, refusal
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.not_served import left_out


def install(app: FastAPI) -> None:
    """Make the framework's own refusals speak the contract's envelope."""
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    left = left_out(request.url.path)
    missing = f"no endpoint {request.method} {request.url.path}"
    message = {
        404: missing if left is None else f"{left.path} is not served here: {left.why}",
        405: f"{request.url.path} does not take {request.method}",
    }.get(error.status_code, str(error.detail))
    body = encode(refusal(error.status_code, message, context_of(request.scope).request_id))
    return Response(
        body, error.status_code, dict(error.headers or {}), media_type="application/json"
    )


async def _invalid(_request: Request, error: Exception) -> Response:
    """Name the wrong path or query parameter; the boundary answers."""
    assert isinstance(error, RequestValidationError)
    problems = [{**p, "loc": p["loc"][1:]} for p in error.errors()]
    named = {p["loc"][0]: None for p in problems if p["loc"]}
    raise InvalidRequest(describe(problems, named)) from None
