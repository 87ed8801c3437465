"""Which sandbox providers this host has; those that it lacks are skipped with the reason."""

from functools import cache
from pathlib import Path
from typing import Final

import pytest

from intramuros.execution.sandbox.base import Level
from intramuros.execution.sandbox.providers import open_provider
from intramuros.execution.sandbox.trial import probe_for_real

_OWN_RUNSC: Final = Path(__file__).parents[3] / ".sandboxes/usr/bin/runsc"
"""Where ``make test`` puts a gVisor that runs on newer kernels than the distribution's."""
CONTAINERS: Final = ("oci:runc", "oci:crun", "gvisor")


def full_name(name: str) -> str:
    """Return the name by which a provider is opened here."""
    return f"gvisor:{_OWN_RUNSC}" if name == "gvisor" and _OWN_RUNSC.exists() else name


@cache
def _problem(name: str) -> str:
    found = probe_for_real(lambda folder: open_provider(name, folder))
    return "" if found.level is Level.OK else f"{found.what}: {found.fix}"


def require(name: str) -> str:
    """Return the name by which a provider is opened here, or skip the test."""
    full = full_name(name)
    problem = _problem(full)
    if problem:
        pytest.skip(f"no sandbox of {name} on this host: {problem}")
    return full
