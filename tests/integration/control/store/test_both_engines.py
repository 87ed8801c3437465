"""Tests that tell most of the store, on PostgreSQL as well; ``pytest --engine=postgres`` runs all.

Each group is a run of its own, so that nothing of one engine is left when the other is used.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from intramuros.kernel.config import environment
from tests import engines, postgres

ROOT = Path(__file__).parents[4]
GROUPS = {
    "the store": ["tests/unit/control/store"],
    "the log and the loop": [
        "tests/integration/control/test_log.py",
        "tests/integration/control/session/test_crash.py",
        "tests/integration/control/session/test_runner.py",
    ],
    "the wire": [
        f"tests/wire/test_{name}.py" for name in ("agents", "events", "sessions", "work", "roles")
    ],
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("group", GROUPS)
def test_on_postgresql_too(group: str) -> None:
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed: nothing was tested on it")
    if engines.on_postgres():
        pytest.skip("everything runs on it now")
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=180"),
            *("--engine=postgres", *GROUPS[group]),
        ],
        cwd=ROOT,
        env={**environment(), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-5_000:]
    assert " passed" in ran.stdout
