"""From a model's tool input to a call a sandbox serves (``sandbox/inside/supervisor.py``). Pure
but for the nonce."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from intramuros.execution.tools.catalog import INPUTS, BashInput

DEFAULT_TIMEOUT_MS = 120_000
MAX_TIMEOUT_MS = 24 * 3600 * 1000
MAX_INPUT = 16 * 1024 * 1024
"""Bytes of one call's input; what the wire can carry is smaller."""


class BadArguments(ValueError):
    """The model's input does not fit the tool; the text is for the model."""


@dataclass(frozen=True)
class Call:
    """One call on its way into a sandbox."""

    tool: str
    op: str
    fields: dict[str, bytes]
    timeout_ms: int = 0
    """Of a command, for the message when it passes."""


def encode_call(tool: str, arguments: Mapping[str, Any]) -> Call:
    """Return the call for a tool and its input.

    Raises:
        BadArguments: unknown tool, or input that does not fit it (contract 23.2).
    """
    model = INPUTS.get(tool)
    if model is None:
        raise BadArguments(f"unknown tool {tool!r}")
    try:
        checked = model.model_validate(dict(arguments))
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'input'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        raise BadArguments(f"Invalid arguments for function {tool}: {faults}") from error
    try:
        call = _bash(checked) if isinstance(checked, BashInput) else _file(tool, checked)
    except UnicodeEncodeError as error:
        raise BadArguments(
            f"{tool}: the input holds an unpaired surrogate, which no file can"
        ) from error
    if sum(map(len, call.fields.values())) > MAX_INPUT:
        raise BadArguments(f"{tool}: the input is over the limit of {MAX_INPUT} bytes")
    return call


def _bash(given: BashInput) -> Call:
    if given.restart:
        return Call("bash", "restart", {})
    if not given.command:
        raise BadArguments("bash: command is required")
    timeout_ms = given.timeout_ms or DEFAULT_TIMEOUT_MS
    fields = {
        "command": given.command.encode(),
        "nonce": secrets.token_hex(16).encode(),
        "timeout_ms": b"%d" % min(max(timeout_ms, 0), MAX_TIMEOUT_MS),
    }
    return Call("bash", "bash", fields, timeout_ms)


def _file(tool: str, given: BaseModel) -> Call:
    fields = {"tool": tool.encode()}
    for name, value in given.model_dump(exclude_none=True).items():
        if isinstance(value, bool):
            fields[name] = b"1" if value else b"0"
        elif isinstance(value, list):
            fields[name] = " ".join(map(str, value)).encode()
        else:
            fields[name] = str(value).encode()
    return Call(tool, "tool", fields)
