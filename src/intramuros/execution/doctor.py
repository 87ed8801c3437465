"""What this host can do for sandboxes, what is missing, and how to fix it.

The findings are those of the provider itself, so that the doctor and a worker that refuses to
start never tell two stories.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from intramuros.execution.egress.netns import probe as probe_network
from intramuros.execution.sandbox.base import (
    GIB,
    MIB,
    Capabilities,
    Finding,
    Level,
    Provider,
    SandboxUnavailable,
)
from intramuros.execution.sandbox.providers import DEFAULT, UNISOLATED, open_provider
from intramuros.execution.sandbox.trial import probe_for_real


@dataclass(frozen=True)
class Report:
    """What one provider can do on this host, tried for real."""

    provider: str
    works: bool
    findings: list[Finding]
    capabilities: Capabilities | None
    """None when it is not installed."""


LOW_BYTES = 2 * GIB
"""Below this, sessions soon fail; above, a warning is not worth the operator's time."""
MINIMUM_BYTES = 64 * MIB


def probe(state_dir: Path, provider: str = DEFAULT) -> list[Finding]:
    """Examine the host for one provider; changes nothing and takes up to a few seconds.

    Args:
        state_dir: where the worker keeps, or would keep, workspaces.
        provider: name of the sandbox provider.

    Returns:
        Findings in the order in which they matter; each that is not ok has a fix of one line.
    """
    try:
        found: Provider = open_provider(provider, state_dir)
    except SandboxUnavailable as error:
        return [Finding(Level.FAILURE, error.problem, error.fix)]
    network = [probe_network()] if found.capabilities.egress else []
    return [*found.probe(), *network, probe_disk(state_dir)]


def examine(names: Iterable[str]) -> Iterator[Report]:
    """Yield what each provider can do: what it finds on the host, and one tiny sandbox of it.

    Takes up to a second each; leaves nothing behind. ``process`` is not tried: it works anywhere,
    and is nothing to look for.
    """
    for name in names:
        yield _examine(name)


def _examine(name: str) -> Report:
    def make(folder: Path) -> Provider:
        return open_provider(name, folder)

    with tempfile.TemporaryDirectory(prefix="intramuros-doctor-") as folder:
        try:
            provider = make(Path(folder))
            findings, capabilities = provider.probe(), provider.capabilities
        except SandboxUnavailable as error:
            return Report(name, False, [Finding(Level.FAILURE, error.problem, error.fix)], None)
    if name != UNISOLATED and is_fit(findings):
        findings.append(probe_for_real(make))
    return Report(name, is_fit(findings), findings, capabilities)


def probe_disk(state_dir: Path) -> Finding:
    """Return whether the state directory can be written and has room."""
    place = state_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding(
            Level.FAILURE,
            f"{state_dir} cannot be written by this user",
            f"choose another directory, or run: sudo chown {os.geteuid()} {place}",
        )
    info = os.statvfs(place)
    free = info.f_bavail * info.f_frsize
    what = f"{free / GIB:.1f} GiB are free for workspaces in {place}"
    if free >= LOW_BYTES:
        return Finding(Level.OK, what)
    level = Level.WARNING if free >= MINIMUM_BYTES else Level.FAILURE
    return Finding(level, what, "free disk space, or choose a directory on another disk")


def is_fit(findings: list[Finding]) -> bool:
    """Return whether nothing found keeps a worker from starting."""
    return all(finding.level is not Level.FAILURE for finding in findings)
