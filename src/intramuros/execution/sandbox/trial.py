"""Try a provider for real: one tiny sandbox, a few commands in it, and away with it.

What a host forbids, and what a program of the wrong age cannot do, shows only then.
"""

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from time import monotonic
from typing import Final

import anyio

from intramuros.execution.sandbox.base import (
    MIB,
    Finding,
    Level,
    Limits,
    Provider,
    Sandbox,
    SandboxError,
    SandboxSpec,
    SandboxUnavailable,
)

TINY: Final = SandboxSpec(limits=Limits(memory_bytes=256 * MIB, pids=64, tmp_bytes=4 * MIB))
DEADLINE_S: Final = 30.0
# Old builds of gVisor answer statx with EINVAL on newer kernels, and then `ls` does not work.
_STAT: Final = "stat / >/dev/null && ls -ld / >/dev/null && echo works"
_REPORT: Final = "report what was said, and name another provider until then"


async def examine(sandbox: Sandbox) -> None:
    """Use a sandbox a little.

    Raises:
        SandboxError: what programs need does not work in it.
    """
    outcome = await sandbox.call("bash", {"command": _STAT})
    said = str(outcome.content[0].get("text", "")).strip()
    if outcome.is_error or said != "works":
        raise SandboxError(f"programs cannot look at files in it ({said[:200]})")
    written = await sandbox.call("write", {"file_path": "trial", "content": "x"})
    read = await sandbox.call("read", {"file_path": "trial"})
    if written.is_error or read.content[0].get("text") != "x":
        raise SandboxError("its workspace does not keep files")


async def try_provider(provider: Provider, spec: SandboxSpec = TINY) -> float:
    """Make a sandbox, use it and destroy it.

    Returns:
        Seconds until it answered first.

    Raises:
        SandboxError, SandboxUnavailable: it does not work here.
    """
    try:
        with anyio.fail_after(DEADLINE_S):
            return await _try(provider, spec, f"trial-{token_hex(6)}")
    except TimeoutError as error:
        raise SandboxError(f"a sandbox took longer than {DEADLINE_S:g} s") from error


async def _try(provider: Provider, spec: SandboxSpec, name: str) -> float:
    sandbox = None
    try:
        began = monotonic()
        sandbox = await provider.create(spec, name)
        took_s = monotonic() - began
        await examine(sandbox)
    finally:
        with anyio.CancelScope(shield=True):
            if sandbox is not None:
                await sandbox.destroy(keep_workspace=False)
            await provider.forget(name)
    return took_s


def probe_for_real(make: Callable[[Path], Provider]) -> Finding:
    """Return whether a provider works here; leaves nothing behind.

    Args:
        make: returns the provider, given a directory for it.
    """
    found: list[Finding] = []
    # A loop of its own, so that callers may be in one or not.
    thread = threading.Thread(target=lambda: found.append(_probe(make)), daemon=True)
    thread.start()
    thread.join(2 * DEADLINE_S)
    return found[0] if found else Finding(Level.FAILURE, "a trial does not end", _REPORT)


def _probe(make: Callable[[Path], Provider]) -> Finding:
    try:
        with tempfile.TemporaryDirectory(prefix="intramuros-trial-") as folder:
            name, took_s = anyio.run(_run, make, Path(folder) / "state")
    except SandboxUnavailable as error:
        return Finding(Level.FAILURE, error.problem, error.fix)
    except (SandboxError, OSError) as error:
        return Finding(Level.FAILURE, f"a sandbox does not work here ({error})", _REPORT)
    return Finding(Level.OK, f"a sandbox of {name} answered after {1000 * took_s:.0f} ms")


async def _run(make: Callable[[Path], Provider], folder: Path) -> tuple[str, float]:
    provider = make(folder)
    try:
        await provider.start()
        return provider.name, await try_provider(provider)
    finally:
        await provider.aclose()
