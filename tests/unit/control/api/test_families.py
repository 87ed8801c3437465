import pytest
from fastapi import APIRouter, FastAPI

from intramuros.control.api.families import Families, family_of
from tests.unit.control.api.asgi import call

first = APIRouter(prefix="/v1/things")
second = APIRouter(prefix="/v1/things")
other = APIRouter(prefix="/v1/others")


@first.get("/special")
async def special() -> str:
    return "special"


@second.get("/{id}")
async def one(id: str) -> str:
    return f"one {id}"


@second.post("")
async def make() -> str:
    return "made"


@other.get("/{id}/parts/{part}")
async def part(id: str, part: str) -> str:
    return f"{id} {part}"


@other.get("/{id}/rest/{rest:path}")
async def remainder(id: str, rest: str) -> str:
    return f"{id} {rest}"


def application() -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    app.router = Families((first, second, other), app.router.routes)
    app.add_api_route("/healthz", special)
    return app


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "status", "answer"),
    [
        ("GET", "/v1/things/special", 200, "special"),
        ("GET", "/v1/things/7", 200, "one 7"),
        ("POST", "/v1/things", 200, "made"),
        ("GET", "/v1/others/1/parts/2", 200, "1 2"),
        ("GET", "/v1/others/1/rest/a/b/c/d/e/f/g/h", 200, "1 a/b/c/d/e/f/g/h"),
        ("GET", "/v1/others/1/rest/a", 200, "1 a"),
        ("GET", "/healthz", 200, "special"),
        ("GET", "/openapi.json", 200, None),
        ("GET", "/v1/things", 405, None),
        ("GET", "/v1/things/7/8", 404, None),
        ("GET", "/v1/others", 404, None),
        ("GET", "/v1/nothing", 404, None),
        ("GET", "/v1", 404, None),
        ("GET", "/", 404, None),
        ("GET", "//v1/things/7", 404, None),
        ("GET", "/v1/things/", 404, None),
    ],
)
async def test_a_request_reaches_the_route_it_would_reach_without(
    method: str, path: str, status: int, answer: str | None
) -> None:
    plain = FastAPI(redirect_slashes=False)
    for router in (first, second, other):
        plain.include_router(router)
    plain.add_api_route("/healthz", special)
    found = await call(application(), path, method=method)
    assert found.status == status
    assert answer is None or found.json == answer
    same = await call(plain, path, method=method)
    assert found.status == same.status
    assert path == "/openapi.json" or found.body == same.body  # the order of paths may differ


def test_the_document_has_every_route() -> None:
    paths = application().openapi()["paths"]
    assert set(paths) == {
        "/v1/things/special",
        "/v1/things/{id}",
        "/v1/things",
        "/v1/others/{id}/parts/{part}",
        "/v1/others/{id}/rest/{rest}",
        "/healthz",
    }


def test_a_family_is_two_parts() -> None:
    assert family_of("/v1/agents/agent_1/versions") == "/v1/agents"
    assert family_of("/v1/agents") == "/v1/agents"
    assert family_of("/healthz") == "/healthz"
