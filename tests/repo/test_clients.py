"""Tests that start servers close their clients themselves.

A client that is left to the garbage collector may lose its connections before it is asked to close
them, and the warning of it fails whichever test runs by then.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOMS = ("e2e", "torture", "wire")
CLIENTS = {"Anthropic", "AsyncAnthropic", "httpx2.AsyncClient", "httpx2.Client"}

ENTERED = (".enter_context", ".enter_async_context")
CLOSING = {"__exit__", "__aexit__", "close", "aclose"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def left_open(source: str) -> list[int]:
    """Return the lines that make a client which nothing closes.

    What closes one: a ``with``, around the call or around the name that it is given; an exit
    stack; and the class that keeps it, if that can be closed. A function may return one that it
    made; whoever calls it in this file closes it.
    """
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    makers, closed = set(CLIENTS), set(_closed(nodes)) | set(_kept(nodes))
    for node in nodes:
        if isinstance(node, FUNCTIONS):
            returned = [one.value for one in ast.walk(node) if isinstance(one, ast.Return)]
            made = [value for value in returned if _named(value) in CLIENTS]
            closed.update(made)
            makers.update([node.name, f"self.{node.name}"] if made else [])
            closed.update(_closed_by_name(node))
    return [node.lineno for node in nodes if _named(node) in makers and node not in closed]


def _closed(nodes: list[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        if isinstance(node, ast.withitem):
            yield node.context_expr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(ENTERED):
            yield from node.args


def _closed_by_name(function: ast.AST) -> Iterator[ast.AST]:
    """Yield what is given a name that a ``with`` or an exit stack of the function then closes."""
    nodes = list(ast.walk(function))
    names = {node.id for node in _closed(nodes) if isinstance(node, ast.Name)}
    for node in nodes:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if names & {target.id for target in targets if isinstance(target, ast.Name)}:
            yield node.value


def _kept(nodes: list[ast.AST]) -> Iterator[ast.AST]:
    """Yield what a class that can be closed keeps in itself."""
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            methods = [one for one in ast.walk(node) if isinstance(one, FUNCTIONS)]
            if CLOSING & {method.name for method in methods}:
                for one in ast.walk(node):
                    if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Attribute):
                        yield one.value


def _named(node: ast.AST | None) -> str | None:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else None


def test_clients_of_servers_that_tests_start_are_closed() -> None:
    files = [path for room in ROOMS for path in sorted((TESTS / room).rglob("*.py"))]
    found = {str(path.relative_to(TESTS)): left_open(path.read_text()) for path in files}
    assert len(found) > 120
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_what_leaves_one_open_is_found() -> None:
    source = """
def made(url):
    return Anthropic(url)
with made(1) as one, AsyncAnthropic() as two:
    stack.enter_context(httpx2.Client())
three = made(2)
httpx2.AsyncClient().get(1)
def named():
    four, five = Anthropic(), 5
    six = Anthropic()
    seven = Anthropic()
    with six:
        stack.enter_context(seven)
class Open:
    def __init__(self):
        self.eight = httpx2.Client()
class Closed(Open):
    def __init__(self):
        self.nine = httpx2.Client()
        ten = httpx2.Client()
    def close(self):
        self.nine.close()
"""
    assert left_open(source) == [6, 7, 9, 16, 20]
