"""Sandboxes that are started ahead, and belong to nobody until a session adopts them.

A spare is a whole sandbox with a user id, limits and an empty workspace of its own, in which no
more than process 1 and an idle shell have run. Adoption makes it one session's: its workspace gets
the session's name, mounts and variables arrive. It never becomes a spare again.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from intramuros.execution.sandbox.base import Mount, Sandbox, SandboxSpec


class Shell(Protocol):
    """The processes of a spare."""

    @property
    def alive(self) -> bool:
        """False once its process 1 is gone."""
        ...

    async def destroy(self, *, keep_workspace: bool = True) -> None:
        """Kill every process and remove what the host held for it. Idempotent."""
        ...


@dataclass(frozen=True, eq=False)
class Spare:
    """One sandbox that waits for its session."""

    name: str
    spec: SandboxSpec
    """What it was made of; a session that wants something else cannot have it."""
    shell: Shell


@runtime_checkable
class Sparing(Protocol):
    """A provider that can start sandboxes ahead."""

    async def prepare(self, spec: SandboxSpec) -> Spare:
        """Start a sandbox that belongs to nobody.

        Raises:
            SandboxError: it did not come up.
        """
        ...

    async def adopt(self, spare: Spare, spec: SandboxSpec, sandbox_id: str) -> Sandbox | None:
        """Make a spare the sandbox of a session, or return None where that cannot be.

        Where a sandbox is made of something else, or has a workspace already, the spare stays as
        it was.

        Raises:
            SandboxBusy: the id is live in this or another living worker; the spare stays.
            SandboxError: the spare died of it; nothing is left behind.
        """
        ...


def additions(spare: SandboxSpec, spec: SandboxSpec) -> tuple[Mount, ...] | None:
    """Return the mounts that a spare lacks; None when it is made of something else.

    Variables, the search path and further mounts can come late; all else is there from the start.
    """
    known = len(spare.mounts)
    same = replace(spec, mounts=spec.mounts[:known], environment=spare.environment, path=spare.path)
    return spec.mounts[known:] if same == spare else None
