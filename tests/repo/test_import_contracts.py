"""Each import contract notices the one edit that it is there for, and no other does."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repo.tree import ROOT, SOURCE

pytestmark = pytest.mark.timeout(240)

ROOMS = "planes never meet"
CONTROL = "control imports downwards only"
EXECUTION = "execution imports downwards only"
PURE = "pure files stay pure"
DRIVERS = "few files open databases"
WEB = "only the API knows the web framework"

SABOTAGE = [
    (ROOMS, "execution/sandbox/sabotage.py", "import intramuros.control"),
    (ROOMS, "tunnel/sabotage.py", "import intramuros.execution.sandbox.base"),
    (ROOMS, "protocol/sabotage.py", "import intramuros.tunnel"),
    (ROOMS, "kernel/timing.py", "import intramuros.protocol"),
    (ROOMS, "utils.py", "'''A room that nobody planned.'''"),
    (CONTROL, "control/store/tables.py", "import intramuros.control.session"),
    (CONTROL, "control/session/sabotage.py", "import intramuros.control.api"),
    (CONTROL, "control/mcp/sabotage.py", "import intramuros.control.model"),
    (CONTROL, "control/helpers.py", "'''A room that nobody planned.'''"),
    (EXECUTION, "execution/tools/calls.py", "import intramuros.execution.sandbox"),
    (EXECUTION, "execution/helpers.py", "'''A room that nobody planned.'''"),
    (PURE, "protocol/audit.py", "import os"),
    (PURE, "protocol/sabotage.py", "from intramuros.kernel.timing import SystemClock"),
    (DRIVERS, "control/store/tables.py", "import sqlite3"),
    (WEB, "tunnel/sabotage.py", "from starlette.requests import Request"),
]


def check(source: Path) -> dict[str, bool]:
    """Return for each contract whether the tree in that folder keeps it."""
    answer = subprocess.run(
        [
            "env",
            f"PYTHONPATH={source}",
            "NO_COLOR=1",
            Path(sys.executable).with_name("lint-imports"),
            "--config",
            ROOT / ".importlinter",
            "--no-cache",
            "--no-logo",
        ],
        cwd=source.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    verdicts = re.findall(r"^(.+?) (KEPT|BROKEN)\b", answer.stdout, re.MULTILINE)
    assert verdicts, answer.stdout + answer.stderr
    return {name: verdict == "KEPT" for name, verdict in verdicts}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the ``src`` folder of a copy that a test may spoil."""
    copy = tmp_path / "src"
    shutil.copytree(SOURCE, copy / SOURCE.name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def pure_by_docstring() -> set[str]:
    """Return the modules whose docstring says ``Pure.`` or ``Pure:``."""
    return {
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in SOURCE.rglob("*.py")
        if re.search(r"\bPure[.:]", ast.get_docstring(ast.parse(path.read_text())) or "")
    }


def test_what_says_it_is_pure_is_held_to_it() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    listed = set(config["importlinter:contract:pure"]["source_modules"].split())
    rooms = tuple(f"{name}." for name in listed)
    assert {name for name in pure_by_docstring() if not name.startswith(rooms)} == {
        name for name in listed if not (ROOT / "src" / Path(*name.split("."))).is_dir()
    }


def test_what_is_excused_takes_only_pure_functions_from_the_clock_file() -> None:
    config = configparser.ConfigParser(comment_prefixes=(";",))
    config.read(ROOT / ".importlinter")
    for line in config["importlinter:contract:pure"]["ignore_imports"].strip().splitlines():
        importer, _, imported = line.partition(" -> ")
        assert imported == "intramuros.kernel.timing"
        tree = ast.parse((ROOT / "src" / Path(*importer.split("."))).with_suffix(".py").read_text())
        taken = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == imported
            for alias in node.names
        }
        pure = {"backoff_s", "from_micros", "micros_rfc3339", "parse_rfc3339", "rfc3339"}
        assert taken <= {*pure, "to_micros"}, importer


def test_an_honest_tree_keeps_every_contract(source: Path) -> None:
    assert check(source) == dict.fromkeys([ROOMS, CONTROL, EXECUTION, PURE, DRIVERS, WEB], True)


@pytest.mark.parametrize(
    ("contract", "path", "line"), SABOTAGE, ids=lambda value: str(value).replace(" ", "-")
)
def test_sabotage_breaks_its_contract_alone(
    source: Path, contract: str, path: str, line: str
) -> None:
    spoilt = source / SOURCE.name / path
    assert spoilt.exists() or spoilt.name in {"sabotage.py", "utils.py", "helpers.py"}
    with spoilt.open("a") as file:
        file.write(f"\n{line}\n")
    assert [name for name, kept in check(source).items() if not kept] == [contract]
