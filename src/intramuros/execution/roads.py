"""The way from a session's sandbox to its repositories, through the sandbox's own gate.

A token goes along with what git asks of the repository, and with nothing else at the host: no page,
no file storage, no other repository. It is added outside, so that the sandbox never has it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final
from urllib.parse import urlsplit

from intramuros.execution.egress.proxy import SandboxGate
from intramuros.execution.egress.secrets import HeaderRule, basic
from intramuros.execution.hosted_client import Repository

HOST: Final = "github.com"
# Of git's smart HTTP protocol.
_SERVICES: Final = ("info/refs", "git-upload-pack", "git-receive-pack")
_REFS: Final = "info/refs?service=git-upload-pack"
# Whose password is a token.
_USER: Final = "x-access-token"


class GateRoad:
    """Implements :class:`~intramuros.execution.repositories.Road`.

    Args:
        gate: gives the gate of the session's sandbox, or None while it has no network.
    """

    def __init__(self, gate: Callable[[], SandboxGate | None]) -> None:
        self._gate = gate

    def grant(self, repositories: Sequence[Repository]) -> None:
        """Add these tokens, and no others, to what the sandbox asks of these repositories."""
        gate = self._gate()
        if gate is not None:
            # Of two tokens for one repository the newer one counts.
            newest = sorted(repositories, key=lambda one: one.updated_at, reverse=True)
            gate.stand([rule for one in newest for rule in rules_of(one)])

    def opened(self) -> AbstractContextManager[None]:
        """Let the sandbox reach the host, whatever its environment says."""
        gate = self._gate()
        return nullcontext() if gate is None else gate.admitting(HOST)

    async def ask(self, repository: Repository) -> int | None:
        """Return the HTTP status with which the host answers, or None if it cannot be reached."""
        gate = self._gate()
        if gate is None:
            return None
        path = urlsplit(repository.url).path
        rule = next(rules_of(repository), None)
        with gate.admitting(HOST):
            return await gate.visit(HOST, f"{path}/{_REFS}", rule)


def rules_of(repository: Repository) -> Iterator[HeaderRule]:
    """Yield the rules by which a repository's token is added; none without a token."""
    if repository.token is None:
        return
    path = urlsplit(repository.url).path
    for root in (path, f"{path}.git"):
        for service in _SERVICES:
            yield HeaderRule(
                HOST,
                f"{root}/{service}",
                "authorization",
                basic(_USER, repository.token),
                f"token of {repository.url}",
            )
