"""Take up a changed configuration file while a gateway runs, or leave all as it is and say why.

As with its certificate, a gateway looks at the file once a second. It reads one that changed when
it has been still since the look before, so that none is read half written, and at once when it is
asked to. What is read is taken up as a whole or not at all, and only when that is on record.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from intramuros.kernel import telemetry
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.telemetry import logger
from intramuros.tunnel.changes import Changes, compare
from intramuros.tunnel.config import GatewayConfig, parse_config, read_text
from intramuros.tunnel.inner import RECHECK_S
from intramuros.tunnel.ledger import AuditUnavailable, Ledger
from intramuros.tunnel.reaching import Checked, Reaching, check_programs
from intramuros.tunnel.vitals import Figures

log = logger("gateway")

# What a file names may be put right without a change of the file itself.
RETRY_S: Final = 30.0
ACCEPTED: Final = "gateway.reloaded"
REFUSED: Final = "gateway.reload_refused"
UNRECORDED: Final = "it cannot be recorded, so the gateway goes on as before"
MAX_REASON: Final = 500

Stamp = tuple[tuple[int, ...], ...]


class Asked:
    """Whether somebody asked to look at the file now."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ask(self) -> None:
        """Have the file read, changed or not."""
        self._event.set()

    async def wait(self, within_s: float) -> bool:
        """Return whether it was asked for, within a time; that counts once."""
        with anyio.move_on_after(within_s):
            await self._event.wait()
        asked, self._event = self._event.is_set(), anyio.Event()
        return asked


@dataclass(frozen=True)
class Text:
    """A configuration as read: its file, its digest, and what it says."""

    file: Path
    config: GatewayConfig
    sha256: str
    ca_sha256: str
    """Of the file in ``upstream.tls.ca_file``; empty if there is none."""


@dataclass(frozen=True)
class _Found:
    """What a look at the file gave, ready to be taken up."""

    text: Text
    changes: Changes
    checked: Checked


class Refused(OperatorError):
    """A file is not taken up; ``digest`` is its own, empty if it could not be read."""

    def __init__(self, problem: str, fix: str, digest: str = "") -> None:
        super().__init__(problem, fix)
        self.digest = digest


def read(file: Path) -> Text:
    """Read a configuration file and what else a change of it may be about.

    Raises:
        Refused: it cannot be used; says why.
    """
    digest = ""
    try:
        text = read_text(file)
        digest = sha256(text).hexdigest()
        config = parse_config(text, file.absolute().parent)
        return Text(file, config, digest, _digest(config.upstream_tls.ca_file))
    except OperatorError as error:
        raise Refused(error.problem, error.fix, digest) from error


@dataclass(frozen=True)
class Checks:
    """What else must hold of a configuration; each raises OperatorError."""

    certificate: Callable[[GatewayConfig], None]
    """Whether the certificate fits the routes."""
    upstreams: Callable[[GatewayConfig], ssl.SSLContext]
    """Gives whom to believe to be a private server."""


class Reloader:
    """Keeps a gateway to its file.

    Args:
        text: the configuration that the gateway began with.
        reaching: what takes up another.
        ledger: where each change is recorded before it counts.
        figures: what is counted.
        checks: what else must hold of a configuration.
    """

    def __init__(
        self,
        text: Text,
        reaching: Reaching,
        ledger: Ledger,
        figures: Figures,
        checks: Checks,
    ) -> None:
        self._text = text
        self._reaching = reaching
        self._ledger = ledger
        self._figures = figures
        self._checks = checks
        # Unknown at first: it may have changed since it was read.
        self._done: Stamp | None = None
        self._seen: Stamp | None = None
        self._refused: tuple[str, str] | None = None
        self._retry_at_s = 0.0
        figures.gauges["configuration_refused_now"] = (
            "Whether the file says what is not in force",
            lambda: self._refused is not None,
        )

    async def run(self, asked: Asked) -> None:
        """Look at the file again and again, until cancelled."""
        while True:
            was_asked = await asked.wait(RECHECK_S)
            stamp = await self._stamp()
            still, self._seen = stamp == self._seen, stamp
            due = self._refused is not None and anyio.current_time() >= self._retry_at_s
            if was_asked or (still and (stamp != self._done or due)):
                await self._look(stamp, asked=was_asked)

    async def _look(self, stamp: Stamp, *, asked: bool) -> None:
        """Read the file, and take it up if it is good."""
        found = await anyio.to_thread.run_sync(self._try_to_find, abandon_on_cancel=True)
        if await self._stamp() != stamp:
            # It was written to while it was read; a later look finds it still.
            return
        if isinstance(found, OperatorError):
            self._done, self._retry_at_s = stamp, anyio.current_time() + RETRY_S
            self._refuse(found, asked=asked)
        elif found.changes == Changes() and found.text.sha256 == self._text.sha256:
            if asked or self._refused is not None:
                log.info("configuration_unchanged", sha256=found.text.sha256)
            self._done, self._refused = stamp, None
        elif await self._recorded(found):
            await self._reaching.take_up(found.checked)
            telemetry.set_level(found.text.config.log_level)
            self._text, self._done, self._refused = found.text, stamp, None
            self._figures.count("reloads", "accepted")
            log.info("configuration_reloaded", sha256=found.text.sha256, **found.changes.fields())

    def _try_to_find(self) -> "_Found | OperatorError":
        """Read and check the file; runs on a thread, for it may wait for disks and programs."""
        try:
            return self._find()
        except OperatorError as error:
            return error
        except Exception as error:
            # Whatever is wrong with a file, the gateway goes on.
            log.exception("configuration_failed")
            return OperatorError(f"it cannot be used ({type(error).__name__})", "see the log")

    def _find(self) -> _Found:
        text, now = read(self._text.file), self._text
        try:
            changes = compare(now.config, text.config)
            if changes.fixed:
                raise OperatorError(
                    f"{', '.join(changes.fixed)} changed, which a gateway reads at its start",
                    "restart the gateway, or put back what was there",
                )
            if text.ca_sha256 != now.ca_sha256:
                changes = changes.with_setting("upstream.tls.ca_file")
            self._checks.certificate(text.config)
            bwrap = check_programs(text.config, now.config.routes.routes)
            context = None
            if any(name.startswith("upstream") for name in changes.settings):
                context = self._checks.upstreams(text.config)
            return _Found(text, changes, Checked(text.config, context, bwrap))
        except OperatorError as error:
            raise Refused(error.problem, error.fix, text.sha256) from error

    async def _recorded(self, found: _Found) -> bool:
        """Record a change that is about to count; if that fails it must not."""
        digest = found.text.sha256
        fields = {"sha256": digest, "before_sha256": self._text.sha256, **found.changes.fields()}
        try:
            await self._ledger.append(ACCEPTED, fields)
        except AuditUnavailable as error:
            # It is tried again at each look, and told once.
            if error.late:
                # The record may yet say that the file counts.
                self._ledger.note(REFUSED, {"sha256": digest, "reason": UNRECORDED})
            if self._refused != (digest, UNRECORDED):
                self._tell(digest, UNRECORDED, "free the disk", "unrecorded")
            return False
        return True

    def _refuse(self, error: OperatorError, *, asked: bool) -> None:
        digest = error.digest if isinstance(error, Refused) else ""
        why = telemetry.mask_text(error.problem)[:MAX_REASON]
        if asked or self._refused != (digest, why):
            self._tell(digest, why, error.fix, "refused")
            self._ledger.note(REFUSED, {"sha256": digest, "reason": why})

    def _tell(self, digest: str, why: str, fix: str, outcome: str) -> None:
        self._refused = digest, why
        self._figures.count("reloads", outcome)
        log.error(
            "configuration_refused", file=str(self._text.file), reason=why, fix=fix, sha256=digest
        )

    async def _stamp(self) -> Stamp:
        """Return what changes with the files; a disk that does not answer stops no call."""
        config = self._text.config
        return await anyio.to_thread.run_sync(
            stamp_of, self._text.file, config.upstream_tls.ca_file, abandon_on_cancel=True
        )


def stamp_of(*files: Path | None) -> Stamp:
    """Return what changes with files; links count as what they lead to."""
    return tuple(_stamp(path) for path in files if path is not None)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def _digest(file: Path | None) -> str:
    try:
        return "" if file is None else sha256(file.read_bytes()).hexdigest()
    except OSError:
        # Whoever needs it says what is wrong.
        return ""
