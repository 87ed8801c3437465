"""Every method of an official Python SDK, and the request that it makes.

Runs under any release of the SDK, also in an environment without our code:
``python sdk_calls.py`` prints JSON. Methods are found by looking at the client, never by a list.
"""

import asyncio
import inspect
import json
import sys
from collections.abc import Iterator
from typing import Any

import anthropic

ROOTS = ("beta", "models", "messages")
ARGUMENT = "ARG"
# Made of other methods of the same resource: they make the same requests.
COMPOSED = frozenset({"stream", "tool_runner", "parse", "thread", "poller", "worker", "wait"})
# These do make a request of their own under such a name.
OWN = ("events.stream",)


class Asked(BaseException):
    """What a method wanted to send; nothing is sent."""


def methods(client: Any) -> Iterator[tuple[str, Any]]:
    """Yield each method by its name as callers write it."""
    for root in ROOTS:
        yield from _below(getattr(client, root), root)


def _below(resource: Any, name: str) -> Iterator[tuple[str, Any]]:
    for member in dir(type(resource)):
        if member.startswith(("_", "with_")):
            continue
        value = getattr(resource, member, None)
        if inspect.ismethod(value):
            yield f"{name}.{member}", value
        elif hasattr(value, "with_raw_response"):
            yield from _below(value, f"{name}.{member}")


def composed(name: str) -> bool:
    return name.rpartition(".")[2] in COMPOSED and not name.endswith(OWN)


def _arguments(method: Any) -> dict[str, Any]:
    """Return what a method needs at least; nothing checks it before it is sent."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(method).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        if required and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            found[name] = _argument(str(parameter.annotation), name)
    return found


def _argument(kind: str, name: str) -> Any:
    if "FileTypes" in kind:
        return [b"x"] if "Sequence" in kind or "SequenceNotStr" in kind else b"x"
    if kind.startswith(("str", "Union[str")) or name.endswith("_id") or name == "model":
        return ARGUMENT
    if "Iterable" in kind or "Sequence" in kind or "List" in kind:
        return []
    return 1 if kind in ("int", "float") else {}


def _fake(*given: Any, **named: Any) -> Any:
    options = named.get("options") or given[1]
    raise Asked(options.method.upper(), options.url)


async def _fake_async(*given: Any, **named: Any) -> Any:
    _fake(*given, **named)


def requests(client: Any) -> dict[str, list[str]]:
    """Return method and path of each method's request."""
    client.request = _fake
    found = {}
    for name, method in methods(client):
        if not composed(name):
            try:
                method(**_arguments(method))
            except Asked as asked:
                found[name] = list(asked.args)
            else:
                raise AssertionError(f"{name} sends nothing")
    return found


async def requests_async(client: Any) -> dict[str, list[str]]:
    """Return the same of the asynchronous client."""
    client.request = _fake_async
    found = {}
    for name, method in methods(client):
        if not composed(name):
            try:
                await method(**_arguments(method))
            except Asked as asked:
                found[name] = list(asked.args)
            else:
                raise AssertionError(f"{name} sends nothing")
    return found


def main() -> None:
    plain = requests(anthropic.Anthropic(api_key="x", base_url="http://x.test"))
    other = anthropic.AsyncAnthropic(api_key="x", base_url="http://x.test")
    found = {"version": anthropic.__version__, "sync": plain}
    sys.stdout.write(json.dumps({**found, "async": asyncio.run(requests_async(other))}))


if __name__ == "__main__":
    main()
