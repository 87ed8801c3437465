"""A worker killed while it puts a session away, or wakes it, loses nothing that was kept."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from intramuros.kernel.config import clean_environment
from tests.hosts import needs_sandboxes

ROOT = Path(__file__).parents[4]
pytestmark = pytest.mark.timeout(240)


def killed(folder: Path, phase: str, steps: list[str]) -> dict[str, Any]:
    needs_sandboxes()
    done = subprocess.run(
        [sys.executable, "-m", f"{__package__}.rig", str(folder), phase, *steps],
        env={**clean_environment(), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=80,
    )
    assert done.returncode == 0, done.stderr
    # The log may have lines of its own before, such as of what others left on this machine.
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_putting_away(tmp_path: Path) -> None:
    before = ["data", "manifest"]
    after = ["head", "destroyed", "workspace", "entry", "retired"]
    found = killed(tmp_path, "hibernate", before + after)
    assert list(found) == before + after
    for step, seen in found.items():
        assert "error" not in seen, (step, seen)
        assert seen["ended"] == -9, step
        assert seen["said"][:3] == ["kept", "deep", "file"], step
        assert seen["live"] == ["sesn_rig.json"], step
        # Before the head its processes, and the shell with them, die with the worker.
        state = "none /workspace" if step in before else "5 /workspace/deep"
        assert seen["said"][3] == state, step


def test_waking(tmp_path: Path) -> None:
    steps = ["begun", "cleared", "created", "loaded", "whole"]
    found = killed(tmp_path, "wake", steps)
    for step, seen in found.items():
        assert "error" not in seen, (step, seen)
        assert seen["ended"] == -9, step
        assert seen["said"][:3] == ["kept", "deep", "file"], step
        state = "none /workspace" if step == "whole" else "5 /workspace/deep"
        assert seen["said"][3] == state, step
