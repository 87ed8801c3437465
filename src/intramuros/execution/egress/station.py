"""The way out of one worker's sandboxes: one authority and one proxy, a gate for each session."""

import os
import secrets as dice
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from intramuros.execution.egress import packages
from intramuros.execution.egress.attach import Captures
from intramuros.execution.egress.base import Passage
from intramuros.execution.egress.ca import bundle_path, open_authority
from intramuros.execution.egress.limits import EgressLimits
from intramuros.execution.egress.policy import OwnRules, Policy
from intramuros.execution.egress.proxy import Proxy, SandboxGate
from intramuros.execution.egress.rules import SessionRules
from intramuros.execution.egress.secrets import Secret, Secrets, placeholder
from intramuros.execution.egress.upstream import Dialler
from intramuros.execution.record import Record
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import Clock

_KEY_BYTES: Final = 32


@dataclass(frozen=True)
class Ground:
    """What a station is built on: a directory of its own, and what the operator allows."""

    directory: Path
    own: OwnRules
    dialler: Dialler
    sandboxes: int
    """How many may be live at a time."""
    scrub: bool = True
    """Whether secrets are taken out of answers."""
    limits: EgressLimits = field(default_factory=EgressLimits)
    """Of each sandbox."""


class Station:
    """Makes and renews the passages of sessions.

    Args:
        captures: where the passages are attached.
    """

    def __init__(self, ground: Ground, proxy: Proxy, captures: Captures, key: bytes) -> None:
        self._own = ground.own
        self._scrub = ground.scrub
        self._trust = bundle_path(ground.directory)
        self._proxy = proxy
        self._key = key
        self._gates: dict[str, SandboxGate] = {}
        self._served: set[str] = set()
        self.captures = captures

    @classmethod
    @asynccontextmanager
    async def opened(cls, ground: Ground, record: Record, clock: Clock) -> AsyncIterator[Self]:
        """Give a station whose captures run until the block ends.

        Raises:
            OperatorError: the directory cannot be used.
        """
        # Made first, and private: the authority's key lies in it.
        authority = open_authority(ground.directory, ground.own.allow, clock)
        key = _key(ground.directory / "placeholder.key")
        proxy = Proxy(authority, ground.dialler, record, clock, ground.limits)
        captures = Captures(record, clock, ground.sandboxes)
        made = cls(ground, proxy, captures, key)
        try:
            async with captures.opened():
                yield made
        finally:
            for gate in made._gates.values():
                gate.close()

    def passage(self, session_id: str, rules: SessionRules) -> Passage:
        """Return a session's passage; one that it has already goes by these rules from now on.

        It is held until it is released and no sandbox is attached to it any more.
        """
        self._served.add(session_id)
        policy = Policy(self._own, rules.networking)
        secrets = self._secrets(session_id, rules)
        gate = self._gates.get(session_id)
        if gate is None:
            gate = self._gates[session_id] = self._proxy.gate(session_id, policy, secrets)
        else:
            gate.renew(policy, secrets)
        # A credential goes before a place of packages of the same name.
        variables = {**packages.variables(rules.packages), **secrets.environment()}
        path = packages.search_path(rules.packages)
        return Passage(gate, gate, self._trust, variables, path)

    @property
    def trust(self) -> Path:
        """What sandboxes trust beside the system's certificates, in PEM."""
        return self._trust

    def gate(self, session_id: str) -> SandboxGate | None:
        """Return the gate of a session that has a passage."""
        return self._gates.get(session_id)

    def release(self, session_id: str) -> None:
        """Nobody serves the session now: let go of its secrets with its sandbox. Idempotent."""
        self._served.discard(session_id)
        for known in list(self._gates):
            # Kept sandboxes go later than their items, and nobody tells.
            if known not in self._served and not self.captures.attached(known):
                self._gates.pop(known).close()

    def _secrets(self, session_id: str, rules: SessionRules) -> Secrets:
        known = (
            Secret(
                name=variable.name,
                value=variable.value,
                placeholder=placeholder(self._key, session_id, variable.credential_id),
                hosts=variable.hosts,
                header=variable.header,
                body=variable.body,
            )
            for variable in rules.variables
        )
        return Secrets(known, scrub=self._scrub)


def _key(path: Path) -> bytes:
    """Return the key that placeholders are made with, made now if there is none.

    It lasts as long as the state directory, so that a sandbox's placeholders stay good.
    """
    try:
        if not path.exists():
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(dice.token_bytes(_KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise OperatorError(
            f"cannot use {path} ({error.strerror})", "let this user write the state directory"
        ) from error
    if len(key) != _KEY_BYTES:
        raise OperatorError(f"{path} is damaged", "remove it; sandboxes get new placeholders")
    return key
