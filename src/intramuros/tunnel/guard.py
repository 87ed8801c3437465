"""The policy in force at a gateway: read from its file, and again whenever that changes.

Without a file everything that has a route may be called, as in the product. With one, what it does
not allow is refused; a file that is gone or cannot be read allows nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger
from intramuros.tunnel.acts import Act, Action
from intramuros.tunnel.callers import Caller
from intramuros.tunnel.listings import ListFilter
from intramuros.tunnel.policy import MAX_POLICY_BYTES, Asked, BadPolicy, Policy, Ruling

log = logger("policy")

# What these answer holds no list of what may be used.
UNFILTERED: Final = frozenset(
    {
        Action.CALL_TOOL,
        Action.READ_RESOURCE,
        Action.GET_PROMPT,
        Action.COMPLETE,
        Action.HTTP,
    }
)

Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class Verdict:
    """What a gateway does with one call."""

    ruling: Ruling
    policy: str
    """Digest of the policy that decided; empty if there was none."""
    filter: ListFilter | None
    """What the answer goes through, if it may hold lists."""

    def fields(self) -> dict[str, object]:
        """Return members for an audit record."""
        return {"policy": self.policy} | self.ruling.fields()


class Guard:
    """Judges calls by a policy file."""

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            OperatorError: it cannot be read, or is no policy; a gateway must not start so.
        """
        self._file = file
        self._lock = Lock()
        self._stamp = stamp_of(file)
        self._policy: Policy | None = load_policy(file)
        log.info("policy_loaded", policy=self._policy.digest, policies=self._policy.size)

    def judge(self, asked: Asked) -> "Verdict":
        """Say whether a call may be made, by the file as it is now."""
        policy = self._current()
        if policy is None:
            return Verdict(Ruling(False, "no_policy"), "", None)
        try:
            ruling = policy.judge(asked)
        except Exception as error:  # noqa: BLE001  whatever went wrong is no permit
            log.error("policy_failed", policy=policy.digest, reason=repr(error))
            ruling = Ruling(False, "policy_error", errors=(type(error).__name__,))
        return Verdict(ruling, policy.digest, self._filter_for(asked))

    def _filter_for(self, asked: Asked) -> ListFilter | None:
        """Return what filters the answer to a call, or None if it holds no lists."""
        if asked.act.action in UNFILTERED:
            return None

        def usable(member: str, names: Sequence[str]) -> list[bool]:
            policy = self._current()
            if policy is None:
                return [False] * len(names)
            return policy.usable(asked, member, names)

        return ListFilter(usable)

    def _current(self) -> Policy | None:
        """Return the policy as the file has it now; asking costs one look at the file."""
        # Long lists are judged on threads, and none may use the old one while another reads.
        with self._lock:
            return self._read_again()

    def _read_again(self) -> Policy | None:
        stamp = stamp_of(self._file)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._policy = load_policy(self._file)
                log.info("policy_loaded", policy=self._policy.digest, policies=self._policy.size)
            except OperatorError as error:
                self._policy = None
                log.error("policy_unreadable", reason=str(error))
        return self._policy


def asked_by(caller: Caller, act: Act) -> Asked:
    """Return the question that a caller's request asks."""
    return Asked(
        caller.who,
        act,
        caller.host,
        caller.session,
        caller.workspace,
        caller.agent,
        caller.agent_version,
    )


def load_policy(file: Path) -> Policy:
    """Read a policy file.

    Raises:
        OperatorError: it cannot be read, or is no policy.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_POLICY_BYTES + 1)
        return Policy(text)
    except OSError as error:
        raise OperatorError(
            f"cannot read the policy {file} ({error.strerror})", "check the path and its mode"
        ) from error
    except BadPolicy as error:
        raise OperatorError(
            f"the policy {file} cannot be used: {error}", "try `intramuros gateway policy check`"
        ) from error


def stamp_of(file: Path) -> Stamp | None:
    """Return what changes with a file, or None if there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
