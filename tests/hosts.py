"""What the machine that tests run on can do."""

import functools

import pytest

from intramuros.execution.sandbox import bwrap
from intramuros.execution.sandbox.base import Level


@functools.cache
def _lacking() -> str | None:
    failures = [finding for finding in bwrap.probe() if finding.level is Level.FAILURE]
    return f"{failures[0].what}: {failures[0].fix}" if failures else None


def needs_sandboxes() -> None:
    """Skip the test where no sandbox can be made, and say why."""
    if lacking := _lacking():
        pytest.skip(f"no sandbox on this host: {lacking}")
