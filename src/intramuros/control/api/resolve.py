"""What an endpoint is called with, worked out once for each route instead of in each request.

The framework walks an endpoint's dependencies anew for every request and looks at every parameter
that the request does not have; for a list with a dozen filters that takes longer than its query.
Here the walk is done when the application is made: each dependency is called once, in the same
order, and only parameters that were sent are read and validated, by the framework's own code.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, Final, get_args, get_origin, get_type_hints

from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Call = Callable[..., Awaitable[Any]]
# Features of the framework that no endpoint of ours uses, and that are not handled here.
_UNUSED: Final = (
    "cookie_params",
    "body_params",
    "websocket_param_name",
    "http_connection_param_name",
    "response_param_name",
    "background_tasks_param_name",
    "security_scopes_param_name",
    "concurrency",
)


@dataclass(frozen=True)
class Fields:
    """Parameters of one place: the path, the query or the headers.

    Args:
        plain: names of texts in a path, taken as they are.
        checked: those that the framework looks at in any case.
        optional: by the name that requests use, with their place; absent ones keep their default.
        several: of the same, those that requests send several times.
        defaults: by the name of the function's parameter; they never change.
    """

    plain: Sequence[str]
    checked: Sequence[Any]
    optional: Sequence[tuple[str, Any, tuple[str, str]]]
    several: Sequence[tuple[str, Any]]
    defaults: Mapping[str, Any]

    def read(self, sent: Mapping[str, Any], values: dict[str, Any], wrong: list[Any]) -> None:
        """Put what was sent into ``values``, or what is wrong with it into ``wrong``."""
        for name in self.plain:
            values[name] = sent[name]
        values.update(self.defaults)
        wanted = [*self.checked]
        if sent:
            wanted += [field for name, field in self.several if name in sent]
            for name, field, place in self.optional:
                if name in sent:
                    values[field.name], problems = field.validate(sent[name], values, loc=place)
                    wrong.extend(problems)
        if wanted:
            found, problems = request_params_to_args(wanted, sent)
            values.update(found)
            wrong.extend(problems)


@dataclass(frozen=True)
class Step:
    """One dependency, or the endpoint itself.

    Args:
        uses: earlier steps' results, by the name of the parameter.
        request: the parameter that gets the request, if any.
    """

    call: Call
    path: Fields | None
    query: Fields | None
    header: Fields | None
    uses: Sequence[tuple[str, int]]
    request: str | None


def install(route: APIRoute) -> bool:
    """Make a route resolve its arguments this way, if it uses nothing that this does not know.

    Returns:
        whether it does now.
    """
    steps: list[Step] = []
    if not _collect(route.dependant, steps, {}) or not _answers(route.endpoint):
        return False
    route.app = _app(tuple(steps))
    return True


def _app(steps: Sequence[Step]) -> ASGIApp:
    last = len(steps) - 1

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        results: list[Any] = []
        problems: list[Any] = []
        for number, step in enumerate(steps):
            values: dict[str, Any] = {name: results[used] for name, used in step.uses}
            wrong: list[Any] = []
            if step.path is not None:
                step.path.read(request.path_params, values, wrong)
            if step.query is not None:
                step.query.read(request.query_params, values, wrong)
            if step.header is not None:
                step.header.read(request.headers, values, wrong)
            if step.request is not None:
                values[step.request] = request
            problems += wrong
            # As the framework does: what depends on a wrong parameter is left out, the rest runs.
            failed = bool(wrong) or any(value is _FAILED for value in values.values())
            if number == last and problems:
                raise RequestValidationError(problems)
            results.append(_FAILED if failed else await step.call(**values))
        response: Response = results[last]
        await response(scope, receive, send)

    return app


def _collect(dependant: Dependant, steps: list[Step], known: dict[Any, int]) -> bool:
    """Append the steps of a dependency, those that it depends on first; tell whether it can be."""
    if dependant.call is None or any(getattr(dependant, name) for name in _UNUSED):
        return False
    if not _awaited(dependant.call):
        return False
    uses = []
    for inner in dependant.dependencies:
        if not inner.use_cache:
            return False
        if inner.call not in known:
            if not _collect(inner, steps, known):
                return False
            known[inner.call] = len(steps) - 1
        if inner.name is not None:
            uses.append((inner.name, known[inner.call]))
    steps.append(
        Step(
            dependant.call,
            _fields(dependant.path_params, of_path=True),
            _fields(dependant.query_params),
            _fields(dependant.header_params),
            tuple(uses),
            dependant.request_param_name,
        )
    )
    return True


def _fields(fields: Sequence[Any], *, of_path: bool = False) -> Fields | None:
    plain, checked, optional, several = [], [], [], []
    defaults: dict[str, Any] = {}
    for field in fields:
        info = field.field_info
        if of_path and info.annotation is str and not info.metadata:
            plain.append(field.name)
        elif of_path or not _may_be_absent(field):
            checked.append(field)
        else:
            if _is_many(info.annotation):
                several.append((field.alias, field))
            else:
                optional.append((field.alias, field, (info.in_.value, field.alias)))
            defaults[field.name] = field.default
    if not fields:
        return None
    return Fields(tuple(plain), tuple(checked), tuple(optional), tuple(several), defaults)


def _may_be_absent(field: Any) -> bool:  # noqa: ANN401  the framework's field
    """Tell whether a parameter's absence means its default, without a look at the request."""
    info = field.field_info
    if info.is_required() or info.validate_default or info.default_factory is not None:
        return False
    named = info.validation_alias is None or isinstance(info.validation_alias, str)
    scalar = field.default is None or isinstance(field.default, (str, int, float))
    return named and scalar and not _is_model(info.annotation)


def _is_many(annotation: Any) -> bool:  # noqa: ANN401  any type
    """Tell whether a parameter takes all the values that were sent under its name."""
    kinds = (get_origin(part) or part for part in (annotation, *get_args(annotation)))
    return any(kind in (list, tuple, set, frozenset) for kind in kinds)


def _is_model(annotation: Any) -> bool:  # noqa: ANN401  any type
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _awaited(call: Callable[..., Any]) -> bool:
    return iscoroutinefunction(call) or iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004  an object's own


def _answers(endpoint: Callable[..., Any]) -> bool:
    """Tell whether an endpoint gives an answer, not something to be made into one."""
    given = get_type_hints(endpoint).get("return")
    return isinstance(given, type) and issubclass(given, Response)


# Stands for what a dependency would have given.
_FAILED: Final = object()
