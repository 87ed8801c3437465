"""The one way out: everything that the worker sends passes here, and what it holds is known here.

Whatever goes wrong while a text is looked at means that it does not leave.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
from anyio import to_thread

from intramuros.execution.outflow.copies import Sifted, sift
from intramuros.execution.outflow.findings import Action, Finding
from intramuros.execution.outflow.patterns import TooMany
from intramuros.execution.outflow.policy import Policy
from intramuros.execution.outflow.results import (
    Cleared,
    Eyes,
    Filtered,
    Found,
    clear,
    release,
    withheld,
)
from intramuros.execution.outflow.search import PluginFailed
from intramuros.execution.outflow.words import Held
from intramuros.execution.sandbox.base import ToolOutcome
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger

log = logger("outflow")

T = TypeVar("T")

# What is shorter is looked at where it is: a thread would take longer.
_INLINE_BYTES: Final = 16 * 1024
# Of one result or text; only a plug-in can take so long.
LIMIT_S: Final = 30.0
_FILE_LIMIT_S: Final = 300.0
# Threads that plug-ins may hang; what comes then waits, and is withheld.
_THREADS: Final = 4
_KEY_BYTES: Final = 32
_DIGEST_CHARS: Final = 32


NOBODY: Final = "There is nobody to ask whether it may leave."
UNSEARCHED: Final = Found(Action.BLOCK, {"unsearched": 1})
"""Of what could not be looked at."""


class Gate:
    """What leaves one worker.

    Args:
        policy: the operator's.
        key: by which found secrets are digested, so that nobody can guess them from the record.
    """

    def __init__(self, policy: Policy, key: bytes) -> None:
        self.policy = policy
        self._key = key
        self._known: dict[object, frozenset[str]] = {}
        self._held = Held(())
        self._limiter: anyio.CapacityLimiter | None = None
        self.heard: Callable[[str], None] = lambda _decision: None
        """Told what was decided of each text or file: pass, mask, ask, block or unsearched."""

    def learn(self, owner: object, values: Iterable[str]) -> None:
        """Take more of what an owner holds.

        Values of all owners are masked for all, in every common encoding, until they are forgotten:
        one that was rotated meanwhile may still be good.
        """
        before = self._known.get(owner, frozenset())
        after = before.union(value for value in values if value)
        if after != before:
            self._known[owner] = after
            self._held = Held(set().union(*self._known.values()))

    def forget(self, owner: object) -> None:
        """Let go of what an owner held."""
        if self._known.pop(owner, None) is not None:
            self._held = Held(set().union(*self._known.values()))

    async def result(self, outcome: ToolOutcome, call_id: str, *, holds: bool = False) -> Filtered:
        """Return what of a tool's outcome may leave; never raises but for cancellation.

        Args:
            holds: whether the caller holds back what a person is to be asked about; else nothing
                of it leaves.
        """
        eyes, limit = self.eyes(), self.policy.result_bytes
        work = partial(release, outcome, eyes, call_id, limit)
        done = await self._do(work, _weight(outcome.content), LIMIT_S)
        self._tell(done)
        if done is not None and done.allowed is not None and not holds:
            return Filtered(withheld(done.found, NOBODY), done.found, withheld=True)
        if done is not None:
            return done
        return Filtered(withheld(UNSEARCHED), UNSEARCHED, withheld=True)

    async def text(self, text: str) -> Cleared:
        """Return what of a text may leave; never raises but for cancellation."""
        done = await self._do(partial(clear, text, self.eyes()), len(text), LIMIT_S)
        self._tell(done)
        return Cleared(None, UNSEARCHED) if done is None else done

    async def file(self, source: Path, target: Path, *, allowed: bool = False) -> Sifted | None:
        """Write what of a file may leave to another file; None if it could not be looked at.

        Args:
            allowed: whether a person has allowed what rules ask about.
        """
        eyes, limit = self.eyes(allowed=allowed), self.policy.file_bytes
        done = await self._do(partial(sift, source, target, eyes, limit), None, _FILE_LIMIT_S)
        self._tell(done)
        return done

    def _tell(self, done: Filtered | Cleared | Sifted | None) -> None:
        self.heard("unsearched" if done is None else done.found.action.name.lower())

    def eyes(self, *, allowed: bool = False) -> Eyes:
        """Return how a text is looked at now; ``allowed`` lets pass what rules ask about."""
        search, held = self.policy.search, self._held

        def find(data: bytes, text: bool) -> list[Finding]:
            return search.find(data, held, text=text)

        def action(rule: str) -> Action:
            wanted = search.action(rule)
            return Action.PASS if allowed and wanted is Action.ASK else wanted

        return Eyes(find, action, self.digest)

    def digest(self, data: bytes) -> str:
        """Return by what the record knows a secret: equal for equal ones, and for nobody else."""
        return hmac.new(self._key, data, hashlib.sha256).hexdigest()[:_DIGEST_CHARS]

    async def _do(self, work: Callable[[], T], size: int | None, limit_s: float) -> T | None:
        try:
            if size is not None and size <= _INLINE_BYTES and not self.policy.search.plugins:
                return work()
            if self._limiter is None:
                self._limiter = anyio.CapacityLimiter(_THREADS)
            with anyio.fail_after(limit_s):
                return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
        except TimeoutError:
            log.error("outflow_too_slow", limit_s=limit_s)
        except (TooMany, PluginFailed) as error:
            log.error("outflow_not_searched", error=str(error))
        except OSError as error:
            log.error("outflow_not_searched", error=os.strerror(error.errno or 0))
        except Exception as error:  # noqa: BLE001  whatever it is, nothing leaves
            # Not its words: they could be the text's.
            log.error("outflow_failed", error=type(error).__name__)
        return None


def open_gate(policy: Policy, key_file: Path) -> Gate:
    """Return the gate of a worker, with the key that its record has always used.

    Raises:
        OperatorError: the key can be neither read nor made.
    """
    try:
        key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = key_file.with_suffix(".new")
        if not key_file.exists():
            draft.unlink(missing_ok=True)
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            draft.rename(key_file)
        key = key_file.read_bytes()
    except OSError as error:
        raise OperatorError(
            f"cannot use {key_file} ({error.strerror})", "let this user read and write it"
        ) from error
    if len(key) != _KEY_BYTES:
        raise OperatorError(f"{key_file} holds no key", "remove it; a new one is made")
    return Gate(policy, key)


def _weight(content: Sequence[Mapping[str, Any]]) -> int:
    """Return about how long an outcome is, without walking through all of it."""
    return sum(
        len(block["text"]) if isinstance(block.get("text"), str) else _INLINE_BYTES + 1
        for block in content
    )
