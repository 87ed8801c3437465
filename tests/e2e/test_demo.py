"""`make demo`, as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(240)
def test_the_demo_does_its_job_and_proves_it(tmp_path: Path) -> None:
    answer = subprocess.run(
        [
            # A key in the environment would make it a test of somebody's model.
            *("env", "-u", "ANTHROPIC_UPSTREAM_API_KEY", "-u", "ANTHROPIC_UPSTREAM_BASE_URL"),
            Path(sys.executable).with_name("intramuros"),
            *("demo", "--data-dir", tmp_path / "data"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    said = answer.stdout + answer.stderr
    assert answer.returncode == 0, said
    assert "All 7 claims held." in said
    assert "a SCRIPT and no model" in said
