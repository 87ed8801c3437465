"""Request bodies: bytes in, one validated model out, and errors that name the field."""

import json
import re
from typing import Any, Final, Generic, TypeVar

import anyio
from fastapi import Request
from pydantic import BaseModel, ValidationError

from intramuros.control.api.access import services
from intramuros.kernel.errors import InvalidRequest
from intramuros.kernel.telemetry import logger

M = TypeVar("M", bound=BaseModel)

log = logger("api")

# A body of the largest size over a 3 Mbit/s line.
BODY_TIMEOUT_S: Final = 90
MAX_NAMED_PROBLEMS: Final = 10
# An escaped U+0000 whose backslash is not itself escaped.
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class Body(Generic[M]):
    """A FastAPI dependency that reads a JSON body into a model.

    A zero-length body counts as ``{}`` (contract 1.14).

    Args:
        model: what the body must be.
        nul: whether text may hold U+0000 (output of programs may; configuration may not).
    """

    def __init__(self, model: type[M], *, nul: bool = False) -> None:
        self.model = model
        self._nul = nul

    async def __call__(self, request: Request) -> M:
        """Return the body.

        Raises:
            InvalidRequest: naming what is wrong and where.
        """
        data = await read_body(request)
        if not self._nul and b"\\u0000" in data and _NUL.search(data):
            raise InvalidRequest("request body: text must not contain U+0000")
        lenient = (await services(request)).lenient
        return parse(self.model, data or b"{}", lenient=lenient)


def parse(model: type[M], data: bytes, *, lenient: bool = False) -> M:
    """Return the model that the JSON text describes.

    Args:
        lenient: drop members that the model does not know, with a log line, instead of refusing.

    Raises:
        InvalidRequest: naming what is wrong and where.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        if problems[0]["type"] == "json_invalid":
            raise _malformed(data, problems[0]["msg"]) from None
        value = json.loads(data)
        unknown = [p["loc"] for p in problems if p["type"] == "extra_forbidden"]
        if not (lenient and unknown and len(unknown) == len(problems)):
            raise InvalidRequest(describe(problems, value)) from None
    for loc in unknown:
        _drop(value, loc)
    log.warning("unknown_fields_ignored", fields=[".".join(map(str, loc)) for loc in unknown][:10])
    return parse(model, json.dumps(value).encode())


def describe(problems: list[Any], value: object) -> str:
    """Return one line for pydantic's problems, each with the path the caller wrote.

    Args:
        problems: pydantic's error dictionaries.
        value: the parsed body; tags that pydantic adds to a path are left out by walking it.
    """
    lines = []
    for problem in problems[:MAX_NAMED_PROBLEMS]:
        path = _path(problem["loc"], value)
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = "unknown field"
        lines.append(f"{path}: {text}" if path else text)
    if len(problems) > MAX_NAMED_PROBLEMS:
        lines.append(f"and {len(problems) - MAX_NAMED_PROBLEMS} more problems")
    return "; ".join(lines)


async def read_body(request: Request) -> bytes:
    """Return a JSON body as it came.

    Raises:
        InvalidRequest: it is encoded or typed as something else, or did not arrive in time.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise InvalidRequest(
            f"content-encoding {encoding[:40]!r} is not supported; send the body as it is",
            code="request_body_encoding_unsupported",
        )
    data = None
    with anyio.move_on_after(BODY_TIMEOUT_S):
        data = await request.body()
    if data is None:
        raise InvalidRequest("the body did not arrive in time", code="request_body_timeout")
    if data:
        _check_type(request.headers.get("content-type", "application/json"))
    return data


def _check_type(header: str) -> None:
    kind, _, parameters = header.lower().partition(";")
    if kind.strip() != "application/json" and not kind.strip().endswith("+json"):
        raise InvalidRequest(f"content-type {kind[:60]!r}: send application/json")
    charset = re.search(r"charset\s*=\s*\"?([^\s\";]+)", parameters)
    if charset and charset[1] not in {"utf-8", "utf8", "us-ascii"}:
        raise InvalidRequest(
            f"charset {charset[1][:40]!r} is not supported; send UTF-8", code="unsupported_charset"
        )


def _malformed(data: bytes, message: str) -> InvalidRequest:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return InvalidRequest(
            f"request body is not UTF-8 at byte {error.start}",
            code="request_body_encoding_invalid",
        )
    return InvalidRequest(f"request body: {message[:1].lower()}{message[1:]}")


def _path(loc: tuple[int | str, ...], value: object) -> str:
    path = ""
    for index, part in enumerate(loc):
        if isinstance(part, int):
            path += f"[{part}]"
        elif isinstance(value, dict) and (part in value or index == len(loc) - 1):
            path += f".{part}" if path else part
        else:
            continue
        value = _child(value, part)
    return path


def _child(value: object, part: int | str) -> object:
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def _drop(value: object, loc: tuple[int | str, ...]) -> None:
    for part in loc[:-1]:
        child = _child(value, part)
        value = value if child is None and isinstance(value, dict) else child
    if isinstance(value, dict):
        value.pop(loc[-1], None)
