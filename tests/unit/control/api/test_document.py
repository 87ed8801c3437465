from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel

from intramuros.control.api.bodies import Body
from intramuros.control.api.document import install


class Part(BaseModel):
    size: int


class Thing(BaseModel):
    name: str
    part: Part | None = None


class Optional(BaseModel):
    note: str | None = None


router = APIRouter(prefix="/v1/things")


@router.post("")
async def create(body: Annotated[Thing, Depends(Body(Thing))]) -> None: ...


@router.post("/{thing_id}")
async def touch(thing_id: str, body: Annotated[Optional, Depends(Body(Optional))]) -> None: ...


@router.get("")
async def find() -> None: ...


def test_bodies_are_described_once_with_their_parts() -> None:
    app = FastAPI()
    app.include_router(router)
    install(app, [router])
    document = app.openapi()
    assert app.openapi() is document
    paths = document["paths"]
    body = paths["/v1/things"]["post"]["requestBody"]
    assert body["required"] is True
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Thing"}
    assert paths["/v1/things/{thing_id}"]["post"]["requestBody"]["required"] is False
    assert "requestBody" not in paths["/v1/things"]["get"]
    schemas = document["components"]["schemas"]
    assert {"Thing", "Part", "Optional"} <= set(schemas)
