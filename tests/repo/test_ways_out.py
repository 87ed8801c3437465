"""What speaks to a control plane is known, and so is what each of its sayings passes before.

Whoever opens another way out of the worker, or has a known one say more, names it here, and how
what goes that way is searched.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOM: Final = Path(__file__).parents[2] / "src" / "intramuros" / "execution"
# Files that connect, each with the calls that carry more than ids, and what those pass.
WAYS: Final = {
    "client.py": {"send": "results of calls; Calls has them from the gate"},
    "hosted_client.py": {
        "put": "outputs; Outputs sends what the gate sifted",
        "delete": "names of outputs; the gate cleared each when it was sent",
        "post": "skills and the commit of a clone; Repositories has them from the gate",
    },
    "memory_client.py": {
        "create": "memories; Store has them from the gate",
        "update": "memories; Store has them from the gate",
        "delete": "ids alone",
    },
    "releases.py": {"post": "questions: rules, digests, and an excerpt that the gate masked"},
    "server.py": {},
    "spills.py": {},
    "ssh/bulletin.py": {},
    "web/client.py": {"post": "answers of web calls; Errands has them from the gate"},
}
CONNECTING: Final = {"AsyncAnthropic", "AsyncClient", "Client", "Anthropic"}
# What server.py makes for the others.
MADE: Final = {"server.client", "server.sdk_client"}
SAYING: Final = {"send", "post", "put", "patch", "delete", "request", "create", "update", "upload"}
# What hosts are told by sandboxes leaves through the egress proxy, by rules of its own; providers
# that are somebody else's machines would be named here. Wrapped MCP servers are the operator's own,
# inside the perimeter: they are asked what the agent asks, and what they answer passes the gate.
ELSEWHERE: Final = ("egress/", "sandbox/", "snapshots/", "conformance/", "wrapped/")


def files() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOM.rglob("*.py")):
        name = path.relative_to(ROOM).as_posix()
        if not name.startswith(ELSEWHERE):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.Module) -> Iterator[ast.Attribute | ast.Name]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            yield node.func


def said(tree: ast.Module) -> set[str]:
    """Return the verbs that a file uses on a client, whatever it calls it."""
    return {
        func.attr
        for func in calls(tree)
        if isinstance(func, ast.Attribute)
        and func.attr in SAYING
        and any(name in ast.unparse(func.value) for name in ("_http", "sdk", "_sdk"))
    }


def test_no_other_file_connects_or_speaks() -> None:
    found = set()
    for name, tree in files():
        names = {f.attr if isinstance(f, ast.Attribute) else f.id for f in calls(tree)}
        asked = {ast.unparse(func) for func in calls(tree)}
        if names & CONNECTING or asked & MADE or said(tree):
            found.add(name)
    assert found == set(WAYS), "say in this file what a new way out passes"


@pytest.mark.parametrize("name", WAYS)
def test_each_says_what_is_known(name: str) -> None:
    tree = ast.parse((ROOM / name).read_text(encoding="utf-8"))
    assert said(tree) == set(WAYS[name]), "say in this file what it passes"


def test_who_says_it_has_the_gate() -> None:
    for name in ("calls.py", "outputs.py", "repositories.py", "memory_store.py", "web/errands.py"):
        text = (ROOM / name).read_text(encoding="utf-8")
        assert "gate.result(" in text or "gate.text(" in text or "gate.file(" in text, name
