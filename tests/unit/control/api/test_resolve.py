from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Query
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from intramuros.control.api.resolve import install
from tests.unit.control.api.asgi import call

router = APIRouter()
CALLS: list[str] = []


@dataclass(frozen=True)
class Gate:
    name: str

    async def __call__(self, request: Request) -> str:
        CALLS.append(self.name)
        if request.headers.get("x-no"):
            raise PermissionError
        return f"{self.name}:{request.url.path}"


async def bounds(
    gte: Annotated[str | None, Query(alias="at[gte]")] = None, limit: int = 20
) -> tuple[str | None, int]:
    CALLS.append("bounds")
    return gte, limit


async def both(
    pair: Annotated[tuple[str | None, int], Depends(bounds)],
    kinds: Annotated[list[Literal["a", "b"]] | None, Query(alias="kinds[]")] = None,
) -> dict[str, Any]:
    CALLS.append("both")
    return {"pair": list(pair), "kinds": kinds}


@router.get("/things/{id}/{number}")
async def find(
    caller: Annotated[str, Depends(Gate("first"))],
    again: Annotated[str, Depends(Gate("first"))],
    pair: Annotated[tuple[str | None, int], Depends(bounds)],
    found: Annotated[dict[str, Any], Depends(both)],
    id: str,
    number: int,
    asked: Annotated[bool, Query()],
    trace: Annotated[str | None, Header(alias="x-trace")] = None,
) -> Response:
    shown = {"caller": caller, "again": again, "found": found, "pair": list(pair)}
    return JSONResponse({**shown, "id": id, "number": number, "asked": asked, "trace": trace})


class Sent(BaseModel):
    name: str


@router.post("/bodies")
async def takes_a_body(body: Sent) -> Response:
    return PlainTextResponse(body.name)


@router.get("/models")
async def gives_a_model() -> Sent:
    return Sent(name="x")


def sync() -> str:
    return "x"


@router.get("/threads")
async def waits_for_a_thread(x: Annotated[str, Depends(sync)]) -> Response:
    return PlainTextResponse(x)


def application(*, ours: bool) -> FastAPI:
    app = FastAPI()

    async def wrong(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        told = [[*problem["loc"], problem["type"]] for problem in error.errors()]
        return JSONResponse(told, 422)

    async def refused(_: Request, error: Exception) -> Response:
        return PlainTextResponse(repr(error), 403)

    app.add_exception_handler(RequestValidationError, wrong)
    app.add_exception_handler(PermissionError, refused)
    for route in router.routes:
        assert isinstance(route, APIRoute)
        made = APIRoute(route.path, route.endpoint, methods=route.methods)
        if ours:
            assert install(made) == (route.endpoint is find)
        app.router.routes.append(made)
    return app


@pytest.mark.anyio
@pytest.mark.parametrize(
    "query",
    [
        "asked=true",
        "asked=1&at[gte]=2026&limit=3&kinds[]=a&kinds[]=b",
        "asked=true&unknown=1&kinds[]=",
        "",
        "asked=perhaps",
        "asked=true&limit=x&kinds[]=c",
        "limit=x",
        "asked=true&asked=false",
    ],
)
@pytest.mark.parametrize("path", ["/things/t%20t/7", "/things/t/x"])
@pytest.mark.parametrize("headers", [{}, {"x-trace": "here"}, {"x-no": "1"}])
async def test_it_is_what_the_framework_would_do(
    path: str, query: str, headers: dict[str, str]
) -> None:
    answers, orders = [], []
    for ours in (True, False):
        CALLS.clear()
        answers.append(await call(application(ours=ours), f"{path}?{query}", headers=headers))
        orders.append(list(CALLS))
    mine, theirs = answers
    assert mine.status == theirs.status
    if mine.status != 422:
        assert mine.body == theirs.body
    else:  # the framework tells of a parameter as often as it is used
        assert sorted(mine.json) == sorted(map(list, {tuple(told) for told in theirs.json}))
    assert orders[0] == orders[1]
