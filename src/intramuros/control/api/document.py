"""The API's own OpenAPI document: the framework's, with the request bodies that it cannot see."""

from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from intramuros.control.api.bodies import Body

_REFERENCE = "#/components/schemas/{model}"


def install(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Make the application describe the bodies of these routers' endpoints."""
    plain = app.openapi
    bodies = [entry for router in routers for entry in _bodies(router)]

    def openapi() -> dict[str, Any]:
        document = plain()
        if bodies:
            _describe(document, bodies)
            bodies.clear()
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the framework's documented way


def _bodies(router: APIRouter) -> Iterator[tuple[str, str, type[BaseModel]]]:
    for route in router.routes:
        if isinstance(route, APIRoute):
            for body in _within(route.dependant):
                for method in route.methods or ():
                    yield route.path, method.lower(), body.model


def _within(dependant: Dependant) -> Iterator[Body[Any]]:
    for inner in dependant.dependencies:
        if isinstance(inner.call, Body):
            yield inner.call
        yield from _within(inner)


def _describe(document: dict[str, Any], bodies: Iterable[tuple[str, str, type[BaseModel]]]) -> None:
    entries = list(bodies)
    models = {(model, "validation") for _, _, model in entries}
    names, schemas = models_json_schema(sorted(models, key=str), ref_template=_REFERENCE)  # type: ignore[arg-type]  # the mode is a literal
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
    for path, method, model in entries:
        document["paths"][path][method]["requestBody"] = {
            "required": any(field.is_required() for field in model.model_fields.values()),
            "content": {"application/json": {"schema": names[model, "validation"]}},
        }
