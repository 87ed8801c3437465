"""Tests that kill servers close their clients themselves.

A client that is left to the garbage collector may lose its connections before it is asked to close
them, and the warning of it fails whichever test runs by then.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1] / "e2e"
CLIENTS = {"Anthropic", "AsyncAnthropic", "httpx2.AsyncClient", "httpx2.Client"}

ENTERED = (".enter_context", ".enter_async_context")


def left_open(source: str) -> list[int]:
    """Return the lines that make a client which no ``with`` closes.

    A function may return one that it made; whoever calls it in this file closes it.
    """
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    makers, closed = set(CLIENTS), set(_closed(nodes))
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            returned = [one.value for one in ast.walk(node) if isinstance(one, ast.Return)]
            made = [value for value in returned if _named(value) in CLIENTS]
            closed.update(made)
            makers.update([node.name] if made else [])
    return [node.lineno for node in nodes if _named(node) in makers and node not in closed]


def _closed(nodes: list[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        if isinstance(node, ast.withitem):
            yield node.context_expr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(ENTERED):
            yield from node.args


def _named(node: ast.AST | None) -> str | None:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else None


def test_clients_of_killed_servers_are_closed() -> None:
    found = {path.name: left_open(path.read_text()) for path in sorted(TESTS.glob("*.py"))}
    assert len(found) > 20
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_what_leaves_one_open_is_found() -> None:
    source = """
def made(url):
    return Anthropic(url)
with made(1) as one, AsyncAnthropic() as two:
    stack.enter_context(httpx2.Client())
three = made(2)
httpx2.AsyncClient().get(1)
"""
    assert left_open(source) == [6, 7]
